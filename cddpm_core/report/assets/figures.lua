-- A picture alone in its paragraph, and the italic paragraph after it, are a figure with its
-- caption. Pictures named "..._grid.png" are pixel by pixel and are not to be smoothed.
local function quoted(text)
  return '"' .. text:gsub('\\', '\\\\'):gsub('"', '\\"') .. '"'
end

local function picture_of(block)
  local inner = block
  if block.t == 'Figure' and #block.content == 1 then
    inner = block.content[1]
  end
  if (inner.t == 'Para' or inner.t == 'Plain') and #inner.content == 1
      and inner.content[1].t == 'Image' then
    return inner.content[1]
  end
end

local function caption_of(block)
  if block and block.t == 'Para' and #block.content == 1 and block.content[1].t == 'Emph' then
    return block.content[1].content
  end
end

function Blocks(blocks)
  local out = pandoc.List()
  local i = 1
  while i <= #blocks do
    local image = picture_of(blocks[i])
    local caption = image and caption_of(blocks[i + 1])
    if caption then
      local alt = pandoc.utils.stringify(image.caption)
      local content = image
      if FORMAT == 'typst' then
        -- Narrower, so that two of the tall ones stand on a page.
        local width = image.src:match('denoise_') and '82%' or '100%'
        content = pandoc.RawInline('typst', '#image(' .. quoted(image.src) .. ', width: ' .. width
          .. ', alt: ' .. quoted(alt) .. ')')
      elseif image.src:match('_grid%.png$') then
        image.classes:insert('pixels')
      end
      out:insert(pandoc.Figure({ pandoc.Plain { content } }, { pandoc.Plain(caption) }))
      i = i + 2
    else
      out:insert(blocks[i])
      i = i + 1
    end
  end
  return out
end

-- Only a long table may break over pages.
function Table(tbl)
  if FORMAT == 'typst' and #tbl.bodies[1].body <= 20 then
    return { pandoc.RawBlock('typst', '#block(width: 100%, breakable: false)['), tbl,
      pandoc.RawBlock('typst', ']') }
  end
end

function Header(header)
  local title = pandoc.utils.stringify(header)
  if title == 'References' or title:match('^Appendix') then
    header.classes:insert('unnumbered')
    return header
  end
end
