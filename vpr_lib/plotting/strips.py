"""A query with its best matches as one picture; right and wrong by sign and frame, never by colour alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from vpr_lib.plotting.style import GREY, RIGHT, RIGHT_SIGN, WRONG, WRONG_SIGN

GAP, FRAME, CAPTION = 8, 4, 34


@dataclass(frozen=True)
class Tile:
    """One picture of a strip. `correct` is None where no ground truth says."""

    image: Image.Image
    caption: str = ""
    correct: bool | None = None


def verdict(correct: bool | None) -> tuple[str, str]:
    """Sign and colour of a verdict."""
    return {True: (RIGHT_SIGN, RIGHT), False: (WRONG_SIGN, WRONG), None: ("", GREY)}[correct]


def draw_strip(query: Tile, matches: Sequence[Tile], height: int = 160) -> Image.Image:
    """Query, a gap, then the matches in order. Right ones carry a solid frame and ✓, wrong ones a dashed frame and ✗."""
    tiles = [_fit(tile, height) for tile in (query, *matches)]
    width = sum(tile.image.width + 2 * FRAME + GAP for tile in tiles) + 3 * GAP
    strip = Image.new("RGB", (width, height + 2 * FRAME + CAPTION + GAP), "white")
    pen, x = ImageDraw.Draw(strip), GAP
    for position, tile in enumerate(tiles):
        _draw_tile(strip, pen, tile, x, is_query=position == 0)
        x += tile.image.width + 2 * FRAME + GAP + (2 * GAP if position == 0 else 0)
    return strip


def _fit(tile: Tile, height: int) -> Tile:
    image = tile.image.convert("RGB")
    width = min(3 * height, max(height // 2, round(image.width * height / image.height)))
    return Tile(image.resize((width, height), Image.Resampling.LANCZOS), tile.caption, tile.correct)


def _draw_tile(strip: Image.Image, pen: ImageDraw.ImageDraw, tile: Tile, x: int, is_query: bool) -> None:
    sign, colour = ("", "#333333") if is_query else verdict(tile.correct)
    box = (x, GAP, x + tile.image.width + 2 * FRAME - 1, GAP + tile.image.height + 2 * FRAME - 1)
    strip.paste(tile.image, (x + FRAME, GAP + FRAME))
    if not is_query and tile.correct is False:
        _dashed(pen, box, colour)
    else:
        pen.rectangle(box, outline=colour, width=FRAME)
    if sign:
        centre, radius = (x + FRAME + 13, GAP + FRAME + 13), 11
        pen.ellipse((centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius), fill=colour)
        pen.text(centre, sign, "white", _font(16), anchor="mm")
    pen.multiline_text((x + 2, box[3] + 3), tile.caption, "#222222", _font(11), spacing=1)


def _dashed(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: str, dash: int = 9) -> None:
    left, top, right, bottom = box
    for start in range(left, right, 2 * dash):
        end = min(start + dash, right)
        pen.rectangle((start, top, end, top + FRAME - 1), fill=colour)
        pen.rectangle((start, bottom - FRAME + 1, end, bottom), fill=colour)
    for start in range(top, bottom, 2 * dash):
        end = min(start + dash, bottom)
        pen.rectangle((left, start, left + FRAME - 1, end), fill=colour)
        pen.rectangle((right - FRAME + 1, start, right, end), fill=colour)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
