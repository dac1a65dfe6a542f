"""Where a source archive lies on the package index that the user's pip is set up for.

The index is asked as pip would ask it; nothing is installed, built or run.
"""

import ast
import logging
import os
import re
import ssl
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

from fnst.errors import AssetError
from fnst.web import READ_TIMEOUT


def link(kind: str, location: str, requirement: str, sha256: str, told: Mapping[str, str]) -> str:
    """Return the URL of the source archive that one index, or one folder of links, offers."""
    from unearth import PackageFinder
    from unearth.auth import MultiDomainBasicAuth
    from unearth.fetchers import PyPIClient

    # an index that lacks the package is told by our own message, if at all
    logging.getLogger("unearth").addHandler(logging.NullHandler())
    cert = told.get("cert")
    verify = ssl.create_default_context(cafile=cert) if cert else True
    trusted = told.get("trusted-host", "").split()
    try:
        session: Any = PyPIClient(trusted_hosts=trusted, verify=verify, timeout=READ_TIMEOUT)
        with session:
            session.auth = MultiDomainBasicAuth(prompting=False, index_urls=[location])
            finder = PackageFinder(session, ignore_compatibility=True)
            finder.sources = [{"url": location, "type": kind}]
            found = finder.find_matches(requirement)
            links = [package.link for package in found if not package.link.is_wheel]
    except Exception as error:  # whatever is wrong with one index, the next may have it
        raise AssetError(f"it cannot be asked ({error})") from error
    right = [link for link in links if _may_be(link.hash_option, sha256)]
    if not right:
        raise AssetError("it offers other bytes" if links else "it does not offer it")
    return with_credentials(right[0].url_without_fragment, location)


def _may_be(hashes: Mapping[str, list[str]] | None, sha256: str) -> bool:
    return sha256 in (hashes or {}).get("sha256", [sha256])


def with_credentials(link: str, location: str) -> str:
    """Return `link` with the user and password of its index, if it is on the same host."""
    there, here = urllib.parse.urlsplit(link), urllib.parse.urlsplit(location)
    if "@" not in here.netloc or "@" in there.netloc or there.hostname != here.hostname:
        return link
    user = here.netloc.rpartition("@")[0]
    return there._replace(netloc=f"{user}@{there.netloc}").geturl()


def verification(link: str, told: Mapping[str, str]) -> bool | str:
    """Return which certificates to trust for `link`, as pip would."""
    address = urllib.parse.urlsplit(link)
    hosts = {address.hostname, address.netloc.rpartition("@")[2]}
    if hosts & set(told.get("trusted-host", "").split()):
        return False
    return told.get("cert") or True


def locations(told: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Return where pip would look, as pairs of unearth's word for the kind and an address."""
    from unearth import PackageFinder

    if told.get("no-index", "").lower() not in ("1", "true", "yes", "on"):
        yield "index", told.get("index-url") or PackageFinder().sources[0]["url"]
        yield from (("index", url) for url in told.get("extra-index-url", "").split())
    yield from (("find_links", place) for place in told.get("find-links", "").split())


def settings() -> dict[str, str]:
    """Return the user's pip configuration; the environment wins, as it does in pip."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    lines = re.findall(r"^(global|install|download)\.([\w-]+)=(.*)$", said, re.MULTILINE)
    lines.sort(key=lambda line: line[0] != "global")  # what is said for one command wins
    written = {key: str(ast.literal_eval(value)) for _, key, value in lines}
    prefix = "PIP_"
    environment = {
        key.removeprefix(prefix).lower().replace("_", "-"): value
        for key, value in os.environ.items()
        if key.startswith(prefix)
    }
    return written | environment
