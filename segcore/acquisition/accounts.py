"""Files that Cityscapes gives to whoever has an account there.

The account comes from two environment variables. It is sent to the site's login page and goes
nowhere else: not into a file, a message, an exception or an object that outlives the login.
"""

import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import replace
from email.message import Message
from http.cookiejar import CookieJar
from threading import Lock
from typing import Any

from segcore.acquisition.archives import Archive
from segcore.acquisition.transfers import SECONDS_OF_SILENCE, RefusedError, reason_of
from segcore.errors import suggestion

SITE = "https://www.cityscapes-dataset.com"
VARIABLES = "CITYSCAPES_USERNAME", "CITYSCAPES_PASSWORD"
NAMED = " and ".join(VARIABLES)
AGENT = {"User-Agent": "segcore"}


class _Stay(urllib.request.HTTPRedirectHandler):
    """The login answers a good account with a redirect; nothing of it is sent on."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


class Account:
    """One session, shared by the threads that fetch; logs in when the first file is asked for."""

    def __init__(self) -> None:
        self._lock, self._refusal = Lock(), ""
        self._packages = dict[str, int]()
        self._cookies = urllib.request.HTTPCookieProcessor(CookieJar())
        self._opener = urllib.request.build_opener(self._cookies)

    def resolve(self, archive: Archive) -> tuple[str, Archive]:
        """The address of a file, and the file with the checksum that the site states now.

        Raises RefusedError without an account, with one that the site refuses, and where the site
        cannot be reached or has no such file.
        """
        with self._lock:
            if self._refusal:  # asked once: many failures would lock the account
                raise RefusedError(self._refusal)
            if not self._packages:
                self._log_in()
                self._packages = self._list()
        if archive.package not in self._packages:
            raise RefusedError(
                f"no {archive.package!r}{suggestion(archive.package, self._packages)}"
            )
        number = self._packages[archive.package]
        if found := re.match(r"[0-9a-fA-F]{32}\b", self._text(f"/md5-sum/?packageID={number}")):
            archive = replace(archive, checksum=f"md5:{found[0]}", strict=True, size=None)
        return f"{SITE}/file-handling/?packageID={number}", archive

    def open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self._opener.open(request, timeout=SECONDS_OF_SILENCE)

    def renew(self) -> None:
        """The session is no longer valid: the next file logs in again."""
        with self._lock:
            self._packages = {}

    def _log_in(self) -> None:
        given = [os.environ.get(name, "") for name in VARIABLES]
        if not all(given):
            self._refuse(f"needs an account: register at {SITE}/register/ and set {NAMED}")
        self._text("/login")  # sets the cookie that the form belongs to
        username, password = given
        form = {"username": username, "password": password, "submit": "Login"}
        data = urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(f"{SITE}/login", data, AGENT)
        opener = urllib.request.build_opener(self._cookies, _Stay)
        try:
            with opener.open(request, timeout=SECONDS_OF_SILENCE) as response:
                status = response.status
        except urllib.error.HTTPError as error:
            with error:
                status = error.code
        except (OSError, http.client.HTTPException) as error:
            raise RefusedError(f"{SITE}/login: {reason_of(error)}") from None
        if status != 302:
            remedy = f"check {NAMED}, and log in once at {SITE}/login"
            self._refuse(f"the account was refused (HTTP status {status}); {remedy}")

    def _refuse(self, reason: str) -> None:
        self._refusal = reason
        raise RefusedError(reason)

    def _list(self) -> dict[str, int]:
        try:
            listed = json.loads(self._text("/downloads/?list"))
            return {entry["name"]: int(entry["packageID"]) for entry in listed}
        except (ValueError, KeyError, TypeError):
            raise RefusedError(
                f"the account's list of files, {SITE}/downloads, is no list"
            ) from None

    def _text(self, path: str) -> str:
        try:
            with self.open(urllib.request.Request(SITE + path, headers=AGENT)) as response:
                return response.read(1 << 20).decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise RefusedError(f"{SITE}{path}: {reason_of(error)}") from None
