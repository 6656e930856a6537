"""The server's own pages, as a member uses them. The two version lines name their fields differently."""

import re
from dataclasses import dataclass

from playwright.sync_api import Locator, Page, expect

from tests.browser.site import HOST


@dataclass(frozen=True)
class _Labels:
    identifier: str
    username: str


_LABELS = {
    "0.4": _Labels(identifier="Identifier", username="Type your desired username"),
    "0.5": _Labels(identifier="Username or Email", username="Type your username"),
}


class ServerPages:
    """What the server of `line` shows in `page`."""

    def __init__(self, page: Page, line: str) -> None:
        self._page = page
        self._labels = _LABELS[line]

    def _field(self, name: str) -> Locator:
        return self._page.get_by_role("textbox", name=name)

    def _press(self, name: str) -> None:
        self._page.get_by_role("button", name=name, exact=True).click()

    def open_account_page(self) -> None:
        """Open the page on which members manage their accounts."""
        self._page.goto(f"https://{HOST}/account")

    def sign_in(self, handle: str, password: str) -> None:
        """Choose to sign in, and do it."""
        self._press("Sign in")
        self.enter(handle, password)

    def enter(self, handle: str, password: str) -> None:
        """Send the form of the sign-in."""
        self._field(self._labels.identifier).fill(handle)
        self._field("Password").fill(password)
        self._press("Sign in")

    def sign_up(self, name: str, invite: str, password: str) -> None:
        """Choose to create an account, and send the form."""
        self._press("Create a new account")
        self._field(self._labels.username).fill(name)
        self._press("Next")
        self._field("Invite code").fill(invite)
        self._field("Email").fill(f"{name}@club.example")
        self._field("Password").fill(password)
        self._press("Sign up")

    def authorize(self) -> None:
        """Approve the app."""
        self._press("Authorize")

    def deny(self) -> None:
        """Refuse the app."""
        self._press("Deny access")

    def shows(self, text: str) -> None:
        """Wait until the page shows `text`, a regular expression."""
        expect(self._page.get_by_text(re.compile(text)).first).to_be_visible()
