"""Title, author, date and so on: shown first in the report notebook, and read from it again."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

from cddpm_core.config.schema import Params
from cddpm_core.report.author import bibliographies
from cddpm_core.report.facts import Facts
from cddpm_core.report.language import date_text, say, speaking
from cddpm_core.report.markdown import escape

__all__ = ["MIME", "TitlePage", "about_params", "title_page"]

MIME = "application/vnd.cddpm.title-page+json"  # of the same as data, for the exports


@dataclass(frozen=True)
class TitlePage:
    """What stands above the report."""

    about: dict[str, Any]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        shown = [self.about[key] for key in ("author", "course", "date", "origin")]
        text = "  \n".join(escape(line) for line in shown if line)
        abstract = self.about["abstract"]
        return {MIME: self.about, "text/plain": self.about["title"], "text/markdown": "\n\n".join(
            filter(None, [f"# {escape(self.about['title'])}", text, abstract]))}


def about_params(p: Params) -> dict[str, Any]:
    """Return title, author, course, date, abstract, language and fonts as the parameters say."""
    with speaking(p.language):
        today = date_text(datetime.date.today())
    return {"title": p.title, "author": " · ".join(filter(None, (p.author, p.student_id))),
            "course": p.course, "date": p.date or today, "abstract": p.abstract,
            "language": p.language, "fonts": list(p.font_paths), "run": "", "origin": ""}


def title_page(facts: Facts) -> TitlePage:
    """Return the title page of a run's report."""
    with speaking(facts.params.language):
        return TitlePage({**about_params(facts.params), "origin": facts.origin(),
                          "run": say("run {name}", name=facts.run.name),
            "bibliography": bibliographies(facts)})
