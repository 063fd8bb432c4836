"""Make a page self-contained: nothing in it may load, link or post to anything outside the report."""

import base64
import mimetypes
import re
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING

from vpr_lib import paths

if TYPE_CHECKING:
    from bs4 import BeautifulSoup, Tag

_FORBIDDEN = [
    *("script", "iframe", "frame", "object", "embed", "applet", "link", "meta", "base", "form", "noscript"),
    *("audio", "video", "source", "track", "portal"),
]
_ADDRESSES = [
    *("href", "src", "srcset", "xlink:href", "action", "formaction", "poster", "background", "data", "cite"),
    *("ping", "longdesc", "usemap"),
]
_OUTSIDE = re.compile(r"@import|url\((?!\s*['\"]?(?:data:|#))", re.IGNORECASE)
NO_ALT = "Picture without a description"


def clean(soup: "BeautifulSoup", folder: Path, pages: Container[str]) -> None:
    """Clean a parsed page in place.

    Outside links become text followed by their address, so that a reader on paper or offline still knows where to look;
    local pictures are embedded; links to other notebooks of the workbook become links to their pages.

    Args:
        folder: where relative addresses start (the notebooks' folder).
        pages: names of the notebooks that have a page.
    """
    for tag in soup.find_all(_FORBIDDEN):
        tag.decompose()
    for tag in soup.find_all("style"):
        tag.string = _without_loads(tag.get_text())
    for tag in soup.find_all(True):
        for name in [name for name in tag.attrs if name.startswith("on")]:
            del tag[name]
        if tag.get("style"):
            tag["style"] = _without_loads(tag["style"])
        if tag.name == "a":
            _link(soup, tag, pages)
        elif tag.name == "img":
            _picture(soup, tag, folder)
        else:
            for name in _ADDRESSES:
                if not str(tag.get(name, "#")).startswith(("#", "data:")):
                    del tag[name]


def _without_loads(css: str) -> str:
    """A style sheet without the declarations that load something; in one pass, however long it is."""
    return "".join(part for part in re.split(r"(?<=[;{])|(?=\})", css) if not _OUTSIDE.search(part))


def _link(soup: "BeautifulSoup", tag: "Tag", pages: Container[str]) -> None:
    address = tag.get("href", "")
    page, _, fragment = address.removeprefix("./").partition("#")
    name = page.removesuffix(".ipynb").removesuffix(".html")
    for attribute in ("target", "ping"):
        del tag[attribute]
    if not page:
        return  # within the page
    if name in pages and page != name:
        tag["href"] = f"{name}.html" + (f"#{fragment}" if fragment else "")
        return
    del tag["href"]
    tag.name, tag["class"] = "span", "outside"
    bare = re.sub(r"^(?:https?:)?//|^mailto:", "", address)
    if bare and bare not in tag.get_text():
        note = soup.new_tag("span", attrs={"class": "address"})
        note.string = f" ({bare})"
        tag.append(note)


def _picture(soup: "BeautifulSoup", tag: "Tag", folder: Path) -> None:
    del tag["srcset"]
    tag["alt"] = tag.get("alt", "").strip() or NO_ALT
    source = tag.get("src", "")
    if source.startswith("data:"):
        return
    path = (folder / source).resolve()
    kind = mimetypes.guess_type(path.name)[0] or ""
    if (
        "//" not in source
        and kind.startswith("image/")
        and path.is_relative_to(paths.project_root())
        and path.is_file()
    ):
        tag["src"] = f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
        return
    tag.replace_with(soup.new_string(f"[picture left out: {tag['alt']}]"))
