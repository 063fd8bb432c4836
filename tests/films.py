"""Small films and tracks for tests."""

import numpy as np
import pytest

CLOCK = "2026-05-01T10:00:00Z"  # when every film begins
POINT = '<trkpt lat="{}" lon="{}">{}</trkpt>'


def write_film(path, frames=40):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        container.metadata["creation_time"] = CLOCK
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 64, "yuv420p", 2_000_000
        for number in range(frames):
            pixels = np.full((64, 96, 3), 5 * number % 200, np.uint8)
            pixels[:24, :24] = (250, 0, 0)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_gpx(path, first, last, lon=8.0):
    """Straight north from 48.0 to 48.001 degrees, 111 m, between two times."""
    points = [POINT.format(lat, lon, f"<time>{time}</time>") for lat, time in ((48.001, last), (48.0, first))]
    path.write_text(
        f'<gpx xmlns="http://www.topografix.com/GPX/1/1"><trk><trkseg>{"".join(points)}</trkseg></trk></gpx>'
    )
