"""A member signs in to an app by the server's own page, and a new member creates an account there."""

from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser.app import App, picture
from tests.browser.server_pages import ServerPages
from tests.browser.site import ELSEWHERE, SIBLING, Site

PASSWORD = "correct horse battery staple 7"


def test_member_authorizes_an_app_on_another_site_which_posts_a_picture(club: Site, page: Page, tmp_path: Path) -> None:
    member = club.account()
    app = App(page, ELSEWHERE)
    app.start_sign_in()
    server = ServerPages(page, club.line)
    server.sign_in(member.handle, member.password)
    server.authorize()
    app.has_signed_in(member.did)
    app.upload(picture(tmp_path))
    app.shows_the_picture()


def test_app_on_a_sibling_subdomain_works_from_the_line_0_5_on(club: Site, page: Page) -> None:
    member = club.account()
    console: list[str] = []
    page.on("console", lambda message: console.append(message.text))
    app = App(page, SIBLING)
    app.start_sign_in()
    server = ServerPages(page, club.line)
    if club.line == "0.4":
        server.shows("The data you submitted is invalid")
        assert [text for text in console if 'Forbidden sec-fetch-site header "same-site"' in text], console
        return
    server.sign_in(member.handle, member.password)
    server.authorize()
    app.has_signed_in(member.did)


def test_wrong_password_and_a_denial_give_the_app_no_session(club: Site, page: Page) -> None:
    member = club.account()
    app = App(page, ELSEWHERE)
    app.start_sign_in()
    server = ServerPages(page, club.line)
    server.sign_in(member.handle, "not the password")
    server.shows("Wrong identifier")
    server.enter(member.handle, member.password)
    server.deny()
    app.reports("access_denied")


def test_new_member_creates_an_account_with_an_invite_and_authorizes_the_app(
    club: Site, page: Page, tmp_path: Path
) -> None:
    invite, name = club.invite(), club.unused_name()
    app = App(page, ELSEWHERE)
    app.start_sign_in()
    server = ServerPages(page, club.line)
    server.sign_up(name, invite, PASSWORD)
    server.authorize()
    app.has_signed_in()
    app.upload(picture(tmp_path))
    app.shows_the_picture()
    assert club.has_account(name, PASSWORD)


def test_used_invite_creates_no_account(club: Site, page: Page) -> None:
    invite = club.invite()
    club.account(invite=invite)
    name = club.unused_name()
    App(page, ELSEWHERE).start_sign_in()
    server = ServerPages(page, club.line)
    server.sign_up(name, invite, PASSWORD)
    server.shows("The invite code is not valid")
    assert not club.has_account(name, PASSWORD)


def test_new_member_creates_an_account_without_an_app(club: Site, page: Page) -> None:
    if club.line == "0.4":
        pytest.skip("the account page of 0.4 has no sign-up; it begins in an app")
    invite, name = club.invite(), club.unused_name()
    server = ServerPages(page, club.line)
    server.open_account_page()
    server.sign_up(name, invite, PASSWORD)
    server.shows("My Atmosphere Account")
    assert club.has_account(name, PASSWORD)
