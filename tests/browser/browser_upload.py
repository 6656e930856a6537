"""A page of another origin uploads a picture: requests that a browser allows by CORS only."""

from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.app import App, picture
from tests.browser.site import ELSEWHERE, LIMIT, SIBLING, Site


@pytest.mark.parametrize("origin", [ELSEWHERE, SIBLING])
def test_page_of_another_origin_uploads_a_picture_and_shows_it(
    club: Site, page: Page, tmp_path: Path, origin: str
) -> None:
    member = club.account()
    app = App(page, origin)
    app.sign_in_with_password(member.handle, member.password)
    app.has_signed_in(member.did)
    app.upload(picture(tmp_path))
    app.shows_the_picture()


def test_page_of_another_origin_learns_that_a_picture_is_too_large(club: Site, page: Page, tmp_path: Path) -> None:
    member = club.account()
    app = App(page, ELSEWHERE)
    app.sign_in_with_password(member.handle, member.password)
    app.has_signed_in(member.did)
    for size in (LIMIT + 1, 15 * LIMIT):  # the second one fills HTTP/2's windows while Caddy refuses it
        app.upload(picture(tmp_path, size))
        app.reports("the server refused the picture: 413")
        app.upload(picture(tmp_path))
        app.shows_the_picture()
