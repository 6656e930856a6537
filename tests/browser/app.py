"""The page of an app (`pages/app.html`), as a member uses it."""

import os
import struct
import zlib
from pathlib import Path

from playwright.sync_api import Page, expect

WIDTH = 120
_HEIGHT = 80


class App:
    """The app of the origin `name`, in `page`."""

    def __init__(self, page: Page, name: str) -> None:
        self._page = page
        self._status = page.get_by_role("status")
        page.goto(f"https://{name}/app.html")

    def start_sign_in(self) -> None:
        """Go to the server's own page, by OAuth."""
        self._page.get_by_role("button", name="Sign in", exact=True).click()
        self._page.wait_for_url("**/oauth/authorize**")

    def sign_in_with_password(self, handle: str, password: str) -> None:
        """Sign in by the app's own form."""
        self._page.get_by_label("Identifier").fill(handle)
        self._page.get_by_label("Password").fill(password)
        self._page.get_by_role("button", name="Sign in with a password").click()

    def has_signed_in(self, did: str = "did:plc:") -> None:
        """Wait until the app has a session of the account."""
        expect(self._status).to_contain_text(f"Signed in as {did}")

    def upload(self, picture: Path) -> None:
        """Choose a picture, which the app uploads and posts."""
        self._page.get_by_label("Picture").set_input_files(picture)

    def shows_the_picture(self) -> None:
        """Wait until the app shows the uploaded picture, as the server sends it."""
        expect(self._status).to_have_text(f"Uploaded: {WIDTH} pixels wide")

    def reports(self, text: str) -> None:
        """Wait until the app shows this error."""
        expect(self._status).to_contain_text(f"Failed: {text}")


def picture(folder: Path, size: int = 0) -> Path:
    """A PNG file, WIDTH pixels wide. With `size` it has so many bytes: zeros follow the picture."""
    rows = b"".join(b"\0" + bytes((column * 7 + row) % 256 for column in range(WIDTH * 3)) for row in range(_HEIGHT))
    header = struct.pack(">IIBBBBB", WIDTH, _HEIGHT, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    file = folder / f"picture-{size}.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    if size:
        os.truncate(file, size)
    return file


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
