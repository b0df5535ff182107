"""A section of the report as data: nothing of it appears without content."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Section"]


@dataclass(frozen=True, repr=False)
class Section:
    """A heading with the parts below it: Markdown, or sections one level deeper."""

    title: str
    parts: tuple[str | Section, ...]

    def markdown(self, level: int = 1) -> str:
        """Return the section as Markdown, its heading at a level; empty without any content."""
        found = [part.markdown(level + 1) if isinstance(part, Section) else part.strip()
                 for part in self.parts]
        filled = [part for part in found if part]
        heading = f"{'#' * level} {self.title}" if self.title else ""
        return "\n\n".join(filter(None, [heading, *filled])) if filled else ""

    def _repr_markdown_(self) -> str:
        return self.markdown()
