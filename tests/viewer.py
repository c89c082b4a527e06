"""The real OHIF in a real browser: its built application, served before Orthanc's DICOMweb, in headless Chromium."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from orthanc import Orthanc
from PIL import Image
from playwright.sync_api import Locator, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
#: Software rendering; root has no sandbox.
_ARGUMENTS = (
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
)
#: A slow machine may take long to compile the application.
_LOADED_MS, _SHOWN_MS = 120_000, 60_000
_CONFIG = """
window.config = {
  routerBasename: null, extensions: [], modes: [], customizationService: {}, showStudyList: true,
  maxNumberOfWebWorkers: 2, showWarningMessageForCrossOrigin: false, showCPUFallbackMessage: false,
  showLoadingIndicator: true, strictZSpacingForVolumeViewport: true, showErrorDetails: 'always',
  maxNumRequests: { interaction: 10, thumbnail: 2, prefetch: 4 },
  defaultDataSourceName: 'orthanc',
  dataSources: [{
    namespace: '@ohif/extension-default.dataSourcesModule.dicomweb',
    sourceName: 'orthanc',
    configuration: {
      friendlyName: 'Orthanc', name: 'orthanc',
      qidoRoot: '/dicom-web', wadoRoot: '/dicom-web', wadoUriRoot: '/wado',
      qidoSupportsIncludeField: false, supportsFuzzyMatching: false, supportsWildcard: true,
      imageRendering: 'wadors', thumbnailRendering: 'wadors', enableStudyLazyLoad: true,
      omitQuotationForMultipartRequest: true, bulkDataURI: { enabled: true },
    },
  }],
};
"""
#: What is drawn over the image: of each annotation its lines of text and the points of its outline.
_ANNOTATIONS = """() => [...document.querySelectorAll('.svg-layer g[data-annotation-uid]')].map(group => {
  let line = group.previousElementSibling;
  while (line && line.tagName !== 'polyline') line = line.previousElementSibling;
  return {
    uid: group.getAttribute('data-annotation-uid'),
    lines: [...group.querySelectorAll('tspan')].map(item => item.textContent),
    points: line ? line.getAttribute('points') : '',
    colour: line ? line.getAttribute('stroke') : '',
  };
})"""

_VIEWPORT = """() => {
  const box = document.querySelector('.svg-layer').getBoundingClientRect();
  return { x: box.x, y: box.y, width: box.width, height: box.height };
}"""


class _Site(SimpleHTTPRequestHandler):
    """The application's files, its configuration, and Orthanc behind `/dicom-web`."""

    protocol_version = "HTTP/1.1"

    def __init__(self, *arguments: Any, orthanc: Orthanc, **options: Any) -> None:
        self._orthanc = orthanc
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/dicom-web/"):
            self._pass_on()
        elif path == "/app-config.js":
            self._answer(200, "text/javascript", _CONFIG.encode())
        else:
            if not Path(self.translate_path(path)).is_file():
                # Routes of the application.
                self.path = "/index.html"
            super().do_GET()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _pass_on(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._orthanc.http_port, timeout=60)
        with closing(connection):
            accept = self.headers.get("Accept", "*/*")
            connection.request("GET", self.path, headers={"Accept": accept})
            answer = connection.getresponse()
            content_type = answer.getheader("Content-Type", "text/plain")
            self._answer(answer.status, content_type, answer.read())

    def _answer(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What the viewer drew of one measurement group of a report."""

    #: Its Tracking Unique Identifier.
    uid: str
    #: Its label.
    lines: tuple[str, ...]
    #: Its outline, shape (points, 2): x to the right, y down, CSS pixels from the corner of the viewport.
    points: np.ndarray
    #: Red, green and blue of the outline.
    rgb: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """A page of the browser that shows one study."""

    page: Page
    #: Lines of the page's console.
    console: list[str]

    def open(self, modality: str) -> None:
        """Open the only series of a modality that has no pixels of its own: SEG or SR."""
        series = self._cy("study-browser-thumbnail-no-image").filter(
            has_text=re.compile(f"^{modality}")
        )
        series.dblclick(timeout=_SHOWN_MS)

    def confirm(self) -> None:
        """Answer yes to the question whether to open a segmentation."""
        self._cy("yes-hydrate-btn").click(timeout=_SHOWN_MS)

    def wait_for_colour(self, rgb: tuple[int, int, int]) -> None:
        """Until the viewport has pixels of about this colour."""
        deadline = time.monotonic() + _SHOWN_MS / 1000
        while (np.abs(self.viewport().astype(int) - rgb).max(axis=2) < 8).sum() < 20:
            assert time.monotonic() < deadline, f"no pixel is {rgb}: {self.console[-5:]}"
            self.page.wait_for_timeout(500)

    def drawn(self) -> list[Drawn]:
        """The annotations on the slice that is shown, once there is one."""
        deadline = time.monotonic() + _SHOWN_MS / 1000
        while not (found := self.page.evaluate(_ANNOTATIONS)):
            assert time.monotonic() < deadline, f"nothing is drawn: {self.console[-5:]}"
            self.page.wait_for_timeout(250)
        return [
            Drawn(
                uid=item["uid"],
                lines=tuple(item["lines"]),
                points=np.array(re.findall(r"[-\d.]+", item["points"]), float).reshape(-1, 2),
                rgb=_rgb(item["colour"]),
            )
            for item in found
        ]

    def text_with(self, words: str) -> str:
        """All that the page says, once it says these words."""
        self.page.get_by_text(words).first.wait_for(timeout=_SHOWN_MS)
        return self.page.locator("body").inner_text()

    def next_measurement(self) -> None:
        """Go to the next measurement group of the report, on whatever slice."""
        self.page.locator("[data-cy='viewport-pane'] svg.rotate-180").click(timeout=_SHOWN_MS)
        self.page.wait_for_timeout(700)

    def slice_text(self) -> str:
        """What stands in the corner about the slice, e.g. `I:22 (3/24)`."""
        return self._cy("viewport-overlay-bottom-right").inner_text().replace("\n", "")

    def viewport(self) -> np.ndarray:
        """The pixels of the viewport, RGB, shape (rows, columns, 3)."""
        taken = self.page.screenshot(clip=self.page.evaluate(_VIEWPORT))
        return np.asarray(Image.open(BytesIO(taken)).convert("RGB"))

    def picture(self, path: Path) -> None:
        """Keep a screenshot."""
        self.page.screenshot(path=path)

    def _cy(self, name: str) -> Locator:
        return self.page.locator(f"[data-cy='{name}']")


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(number) for number in re.findall(r"\d+", colour)[:3])
    return red, green, blue


@contextmanager
def running_site(dist: Path, orthanc: Orthanc) -> Iterator[str]:
    """Serve OHIF's folder `dist` before an Orthanc; the address."""
    handler = partial(_Site, orthanc=orthanc, directory=str(dist))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextmanager
def open_viewer(site: str, study_instance_uid: str) -> Iterator[Viewer]:
    """A browser that shows a study, without the tour of the application and the notice over it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_ARGUMENTS))
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        console: list[str] = []
        page.on("console", lambda message: console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: console.append(f"exception: {error}"))
        page.goto(f"{site}/viewer?StudyInstanceUIDs={study_instance_uid}")
        page.get_by_text("Skip all").click(timeout=_LOADED_MS)
        page.locator("[data-cy='confirm-and-hide-button']").click()
        try:
            yield Viewer(page=page, console=console)
        finally:
            browser.close()
