"""`vpr weights get` against a local server that answers as GitHub, Google Drive and the Hugging Face Hub do."""

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
import torch
import typer

from vpr_lib.cli import weights as command
from vpr_lib.data import download
from vpr_lib.data.download import DownloadError, recorded_sum
from vpr_lib.models import published, registration
from vpr_lib.models.checkpoints import CheckpointError, trained_path, weights_hash
from vpr_lib.models.published import Published
from vpr_lib.models.registration import fetch_weights, kept_at, register_weights
from vpr_lib.models.zoo import build_model
from vpr_lib.workbook.run.needs import Needs

MODEL = "mixvpr_toy_64"
CONFIRM = (
    '<html><body><form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
    '<input type="hidden" name="id" value="{id}"><input type="hidden" name="confirm" value="t"></form></body></html>'
)  # one line, as theirs
QUOTA = '<html><p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></html>'


def checkpoint(model=MODEL, seed=3):
    buffer = io.BytesIO()
    torch.save(build_model(model, seed=seed).state_dict(), buffer)
    return buffer.getvalue()


class Net:
    """One loopback server in the place of all hosts; `files` are what it holds, `seen` the paths asked for."""

    def __init__(self):
        self.files, self.seen, self.ranges, self.quota, self.cut = {}, [], [], False, None
        net = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                net.answer(self)

            def do_HEAD(self):
                net.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.base = f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, request):
        path, query = urlsplit(request.path).path, parse_qs(urlsplit(request.path).query)
        self.seen.append(request.path)
        if path.startswith("/a/b/releases/download/"):  # GitHub: to a signed address elsewhere
            return self.reply(request, 302, b"", {"Location": f"{self.base}/signed{path}?token=1"})
        if path == "/uc" and self.quota:
            return self.reply(request, 200, QUOTA.encode(), {"Content-Type": "text/html"})
        if path == "/uc":  # Drive: first a page that warns of no virus scan
            page = CONFIRM.format(id=query["id"][0])
            return self.reply(request, 200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})
        if path == "/download":
            return self.file(request, query["id"][0], {"Content-Disposition": 'attachment; filename="a.ckpt"'})
        if path.startswith("/resolve") or "/resolve/" in path:  # the Hub
            named = {"X-Repo-Commit": "0" * 40, "ETag": '"etag"'}
            return self.file(request, path.rsplit("/", 1)[1], named)
        return self.file(request, path.rsplit("/", 1)[1], {})

    def file(self, request, name, headers):
        if name not in self.files:
            return self.reply(request, 404, b"not found", {})
        data, wanted = self.files[name], request.headers.get("Range", "")
        self.ranges.append(wanted)
        start = int(wanted[6:-1]) if wanted else 0
        more = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if wanted else {}
        binary = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
        return self.reply(request, 206 if wanted else 200, data[start:], binary | headers | more, self.cut)

    def reply(self, request, status, body, headers, cut=None):
        request.send_response(status)
        for key, value in ({"Content-Type": "text/plain"} | headers | {"Content-Length": str(len(body))}).items():
            request.send_header(key, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body[:cut])
        request.close_connection = True


@pytest.fixture
def net(tmp_path, monkeypatch):
    for name in ("VPR_DATA", "VPR_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(download, "MARGIN_BYTES", 0)
    monkeypatch.setattr("random.uniform", lambda *_: 0.0)  # gdown's pause between two attempts
    net, get = Net(), requests.Session.get

    def at_home(session, url, **options):
        parts = urlsplit(url)
        here = net.base + parts.path + (f"?{parts.query}" if parts.query else "")
        return get(session, url if url.startswith(net.base) else here, **options)

    monkeypatch.setattr(requests.Session, "get", at_home)
    yield net
    net.server.shutdown()
    net.server.server_close()


def publish(monkeypatch, name=MODEL, **way):
    """A table of one published file."""
    own = {name: Published(file="a.ckpt", source="the authors", licence="MIT", **way)}
    for module in (published, registration):
        monkeypatch.setattr(module, "load_published", lambda: own)


GITHUB = {"url": "https://github.com/a/b/releases/download/v1/a.ckpt"}
DRIVE = {"drive": "1ZmmTGn_8upcJ5huXS42_Yq-vHd8Bxo_v"}


@pytest.mark.parametrize("way", [GITHUB, DRIVE], ids=["github", "drive"])
def test_a_published_file_is_fetched_checked_and_kept(net, monkeypatch, way):
    publish(monkeypatch, **way)
    net.files = {"a.ckpt": checkpoint(), DRIVE["drive"]: checkpoint()}
    kept = fetch_weights(MODEL, quiet=True)
    assert kept.path == trained_path(MODEL) and kept.about["source"] == "the authors" and kept.about["licence"] == "MIT"
    assert register_weights(kept.path, MODEL).about["model"] == MODEL
    assert not (kept.path.parent.parent / "downloads" / MODEL).exists()
    asked = len(net.seen)
    assert fetch_weights(MODEL) is None and len(net.seen) == asked  # it is here
    if way is GITHUB:
        assert net.seen[:2] == ["/a/b/releases/download/v1/a.ckpt", "/signed/a/b/releases/download/v1/a.ckpt?token=1"]
    else:
        assert net.seen == [f"/uc?id={DRIVE['drive']}", f"/download?id={DRIVE['drive']}&confirm=t"]
    assert recorded_sum(Published(file="a", source="b", licence="c", **way).address) == kept.about["sha256"]


@pytest.mark.parametrize("way", [GITHUB, DRIVE], ids=["github", "drive"])
def test_a_transfer_that_breaks_off_goes_on(net, monkeypatch, way):
    publish(monkeypatch, **way)
    net.files = dict.fromkeys(("a.ckpt", DRIVE["drive"]), checkpoint())
    net.cut = (1 << 19) + 9
    with pytest.raises(DownloadError, match=r"524,288 bytes arrived.*They are kept"):
        fetch_weights(MODEL, quiet=True, attempts=1)
    net.cut = None
    fetch_weights(MODEL, quiet=True)
    assert net.ranges[-1] == "bytes=524288-"


def test_drive_s_quota_is_told(net, monkeypatch):
    publish(monkeypatch, **DRIVE)
    net.quota = True
    with pytest.raises(DownloadError, match="its quota for this file is used up for now: try again in a day"):
        fetch_weights(MODEL, quiet=True)


def test_another_file_is_refused_and_deleted(net, monkeypatch):
    publish(monkeypatch, **GITHUB)
    for wrong, error in ((checkpoint("gem_toy_160"), "gave another file than a.ckpt; it was deleted.*keys are missing"),
                         (b"no checkpoint at all", "cannot be read as weights only")):  # fmt: skip
        net.files = {"a.ckpt": wrong}
        with pytest.raises(CheckpointError, match=error):
            fetch_weights(MODEL, quiet=True)
        assert not trained_path(MODEL).exists() and recorded_sum(GITHUB["url"]) is None
    net.files = {"a.ckpt": b"<!doctype html><html>gone</html>"}
    with pytest.raises(DownloadError, match="a web page came instead"):
        fetch_weights(MODEL, quiet=True)
    net.files = {}
    with pytest.raises(DownloadError, match="the server says 404"):
        fetch_weights(MODEL, quiet=True)


def test_a_sum_or_size_that_differs(net, monkeypatch):
    net.files = {"a.ckpt": checkpoint()}
    publish(monkeypatch, **GITHUB, sha256="0" * 64)
    with pytest.raises(DownloadError, match=r"SHA-256 .*from the catalogue"):
        fetch_weights(MODEL, quiet=True)
    publish(monkeypatch, **GITHUB, bytes=7)
    with pytest.raises(DownloadError, match="bytes, expected 7"):
        fetch_weights(MODEL, quiet=True)
    monkeypatch.setattr(download, "MARGIN_BYTES", 1 << 60)
    with pytest.raises(DownloadError, match="GB free; make room"):
        fetch_weights(MODEL, quiet=True)


def test_the_hub(net, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", net.base)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace("https://huggingface.co", net.base)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    publish(monkeypatch, hub=("a/b", "model.ckpt"))
    net.files = {"model.ckpt": checkpoint()}
    assert fetch_weights(MODEL, quiet=True).path.is_file()
    net.files = {}
    trained_path(MODEL).unlink()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub2"))
    with pytest.raises(DownloadError, match="the Hugging Face Hub does not give it"):
        fetch_weights(MODEL, quiet=True)


def test_a_member_of_a_folder(net, monkeypatch):
    import gdown
    from gdown.download import GoogleDriveFileToDownload as Entry

    held = [
        Entry("boreas_1", "weights/Boreas_teacher.pth", ""),
        Entry(DRIVE["drive"], "weights/Oxford_teacher.pth", ""),
    ]
    monkeypatch.setattr(gdown, "download_folder", lambda **_: held)
    publish(monkeypatch, drive_folder="f", member="*oxford*.pth")
    net.files = {DRIVE["drive"]: checkpoint()}
    assert fetch_weights(MODEL, quiet=True).path.is_file()
    trained_path(MODEL).unlink()
    publish(monkeypatch, drive_folder="f", member="*.pth")
    with pytest.raises(
        DownloadError, match=r"2 files .* fit '\*.pth', expected one; it holds weights/Boreas_teacher.pth"
    ):
        fetch_weights(MODEL, quiet=True)

    def unlisted(**_):
        raise gdown.exceptions.DownloadError("Failed to retrieve folder contents")

    monkeypatch.setattr(gdown, "download_folder", unlisted)
    with pytest.raises(DownloadError, match=r"cannot be listed .Failed to retrieve"):
        fetch_weights(MODEL, quiet=True)


def test_what_no_program_can_fetch(monkeypatch, tmp_path):
    monkeypatch.setenv("VPR_CACHE", str(tmp_path))
    with pytest.raises(
        DownloadError, match=r"dinov2_vits14_mix.ckpt is not for programs: the net-disk.*--as dinomix_vits14_4096"
    ):
        fetch_weights("dinomix_vits14_4096")
    with pytest.raises(DownloadError, match=r"Nobody publishes weights of clusvpr_vgg16_8192: train it"):
        fetch_weights("clusvpr_vgg16_8192")
    with pytest.raises(ValueError, match="published weights"):
        fetch_weights("nothing")


def test_cloud_models_and_dinov2_are_kept_too(tmp_path, monkeypatch):
    from vpr_lib.models import dinov2

    monkeypatch.setenv("VPR_CACHE", str(tmp_path))
    teacher = build_model("minklocpp_toy_96", seed=5)
    torch.save(teacher.state_dict(), tmp_path / "teacher.pth")
    kept = register_weights(tmp_path / "teacher.pth", "minklocpp_toy_96")
    fresh = build_model("minklocpp_toy_96")
    registration.load_weights(fresh, kept.path)
    assert weights_hash(fresh) == weights_hash(teacher)
    monkeypatch.setitem(dinov2.SIZES, "dinov2_vits14", dinov2.Size(24, 2, 2, table=5))
    tensors = {k.removeprefix("dino_model."): v for k, v in dinov2.DINOv2("dinov2_vits14").state_dict().items()}
    torch.save(tensors | {"norm.weight": torch.ones(24)}, tmp_path / "d.pth")
    assert register_weights(tmp_path / "d.pth", "dinov2_vits14").path == kept_at("dinov2_vits14")
    assert dinov2.pretrained_path("dinov2_vits14") == kept_at("dinov2_vits14")


def load_published_of(monkeypatch):
    """Three published files that a profile asks for: one that is here, one that is not where it was, one for people."""
    ways = {MODEL: GITHUB, "two": {"url": "https://github.com/gone"}, "three": {"by_hand": "a net-disk"}}
    own = {name: Published(file="a.ckpt", source="s", licence="MIT", **way) for name, way in ways.items()}
    for module in (published, registration):
        monkeypatch.setattr(module, "load_published", lambda: own)
    wanted = Needs({}, dict.fromkeys(own, ("02",)), {}, {})
    monkeypatch.setattr("vpr_lib.workbook.run.needs.needs_of", lambda _: wanted)
    return own


def test_the_command(net, monkeypatch, capsys):
    publish(monkeypatch, **GITHUB)
    with pytest.raises(ValueError, match="Say one of: NAME, --all, --profile P"):
        command.get("", False, "")
    with pytest.raises(typer.Exit):
        command.get(MODEL, False, "")
    assert "the server says 404" in capsys.readouterr().out
    net.files = {"a.ckpt": checkpoint()}
    command.get("", True, "")
    assert f"{MODEL}: fits, kept as" in capsys.readouterr().out
    command.get(MODEL, False, "")
    assert "here already" in capsys.readouterr().out
    own = load_published_of(monkeypatch)
    with pytest.raises(typer.Exit):
        command.get("", False, "released")
    text = " ".join(capsys.readouterr().out.split())
    assert f"1 of {len(own)} are here failed, run this again: two by hand, see above: three;" in text
    command.list_weights()
    assert MODEL in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setenv("COLUMNS", "80")
    command.list_weights()
    listed = capsys.readouterr().out
    assert (
        all(f" {name} " in listed for name in published.load_published())
        and "size not stated" in listed
        and "by hand" in listed
    )
