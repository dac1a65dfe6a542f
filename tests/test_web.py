"""One request: its answer agrees with what was asked, or it is told why not and whether it may."""

import threading
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from benchmarks.server import serving
from fnst import web
from fnst.errors import AssetError
from fnst.web import BeyondError, BrokenOffError, Crew, NoRangesError, Patience, ask, fetch

BODY = bytes(range(256)) * 40
DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """No waiting."""
    monkeypatch.setattr(web, "BACKOFF", 0.0)


@pytest.fixture
def site():
    with serving(files={"/a": BODY}) as served:
        yield served


def read(answer):
    return b"".join(answer.pieces())


# --- the answer -----------------------------------------------------------------------------------


def test_a_span_is_answered_with_its_bytes_and_where_they_lie(site):
    with ask(f"{site.url}/a", (10, 20)) as answer:
        assert read(answer) == BODY[10:20]
    assert (answer.ranged, answer.first, answer.end, answer.total) == (True, 10, 20, len(BODY))
    assert answer.received == 10
    assert site.asked == [("/a", "bytes=10-19")]
    assert site.encodings == ["identity"]


def test_a_span_that_reaches_beyond_the_end_is_cut(site):
    with ask(f"{site.url}/a", (len(BODY) - 5, len(BODY) + 5)) as answer:
        assert read(answer) == BODY[-5:]
    assert answer.end == len(BODY)


def test_a_span_after_the_end_tells_where_the_end_is(site):
    with pytest.raises(BeyondError) as caught, ask(f"{site.url}/a", (len(BODY), len(BODY) + 1)):
        pass
    assert caught.value.total == len(BODY)


def test_without_a_span_all_is_asked_for(site):
    with ask(f"{site.url}/a") as answer:
        assert read(answer) == BODY
    assert (answer.ranged, answer.first, answer.end, answer.total) == (False, 0, 10240, 10240)
    assert site.ranges == [None]


def test_a_server_that_ignores_range_is_seen(site):
    site.ignores_range = True
    with ask(f"{site.url}/a", (10, 20)) as answer:
        assert (answer.ranged, answer.first) == (False, 0)


def test_another_version_comes_whole(site):
    with ask(f"{site.url}/a", (10, 20), validator=site.etag("/a")) as answer:
        assert answer.ranged
    with ask(f"{site.url}/a", (10, 20), validator='"older"') as answer:
        assert not answer.ranged


@pytest.mark.parametrize(
    ("etag", "told"), [('"strong"', '"strong"'), ('W/"weak"', DATE), (None, DATE)]
)
def test_a_version_is_known_by_its_strong_etag_or_its_date(site, etag, told):
    site.etags["/a"], site.date = etag, DATE
    with ask(f"{site.url}/a") as answer:
        assert answer.validator == told


def test_other_bytes_than_those_asked_for_are_refused(site):
    site.shifts = 1
    with pytest.raises(NoRangesError, match="other bytes"), ask(f"{site.url}/a", (10, 20)):
        pass


@pytest.mark.parametrize("headers", [{}, {"Content-Range": "bytes 0-9/*"}])
def test_a_part_that_does_not_say_of_what_is_refused(site, headers):
    site.answers = [(206, headers)]
    with pytest.raises(NoRangesError, match="does not say"), ask(f"{site.url}/a", (0, 10)):
        pass


def test_redirects_are_followed_with_their_range(site):
    site.redirects["/old"] = f"{site.url}/a"
    with ask(f"{site.url}/old", (10, 20)) as answer:
        assert read(answer) == BODY[10:20]
    assert site.asked == [("/old", "bytes=10-19"), ("/a", "bytes=10-19")]


def test_requests_of_one_thread_share_a_connection(site):
    for at in range(5):
        fetch(f"{site.url}/a", (at, at + 1))
    assert (len(site.asked), site.connections) == (5, 1)


def test_a_connection_that_the_server_does_not_keep_is_no_obstacle(site):
    site.keeps_alive = False
    assert [fetch(f"{site.url}/a", (at, at + 1))[0] for at in range(3)] == [b"\0", b"\1", b"\2"]
    assert site.connections == 3


def test_the_proxy_of_the_environment_is_used(site, monkeypatch):
    """The proxy answers by itself, so that only a request through it can get that body."""
    asked = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"proxy")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.handle_request)
        thread.start()
        for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        with ask("http://photographs.invalid/a") as answer:
            assert read(answer) == b"proxy"
        thread.join()
    assert asked == ["http://photographs.invalid/a"]


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_a_busy_server_may_be_asked_again(site, status):
    site.answers = [(status, {})]
    with pytest.raises(BrokenOffError, match=f"it answers {status}"), ask(f"{site.url}/a"):
        pass


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_refusal_is_final(site, status):
    site.answers = [(status, {})]
    with pytest.raises(AssetError, match=f"it answers {status}"), ask(f"{site.url}/a"):
        pass


@pytest.mark.parametrize(
    ("header", "wait"),
    [("7", 7), ("86400", 86400), (DATE, 0), ("soon", None), (None, None), ("2²", None)],
)
def test_a_busy_server_says_how_long_to_wait(site, header, wait):
    site.answers = [(503, {"Retry-After": header} if header else {})]
    with pytest.raises(BrokenOffError) as caught, ask(f"{site.url}/a"):
        pass
    assert caught.value.wait == wait


def test_a_date_in_the_future_is_seconds_from_now(site):
    from datetime import UTC, datetime, timedelta

    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    site.answers = [(503, {"Retry-After": date})]
    with pytest.raises(BrokenOffError) as caught, ask(f"{site.url}/a"):
        pass
    assert 3000 < caught.value.wait <= 3600


def test_a_body_that_breaks_off_says_how_much_of_it_came(site):
    site.drops = [1000]
    with pytest.raises(BrokenOffError) as caught, ask(f"{site.url}/a") as answer:
        read(answer)
    assert caught.value.received == 1000


def test_a_silent_server_is_left(site, monkeypatch):
    monkeypatch.setattr(web, "READ_TIMEOUT", 0.1)
    site.stalls = [1000]
    with pytest.raises(BrokenOffError) as caught, ask(f"{site.url}/a") as answer:
        read(answer)
    assert caught.value.received == 1000


def test_a_server_that_is_gone_may_be_asked_again():
    with serving() as gone:
        pass
    with pytest.raises(BrokenOffError, match="cannot be reached"), ask(f"{gone.url}/a"):
        pass


def test_what_is_no_address_is_one_sentence():
    with pytest.raises(AssetError, match="it cannot be asked"), ask("http://"):
        pass


# --- patience -------------------------------------------------------------------------------------


def waits(patience, *failures):
    return [patience.after(broken, done) for broken, done in failures]


def test_waiting_doubles_from_try_to_try(monkeypatch):
    monkeypatch.setattr(web, "BACKOFF", 0.5)
    nothing = BrokenOffError("503")
    assert waits(Patience(0), *[(nothing, 0)] * 3) == [0.5, 1, 2]


def test_after_new_bytes_waiting_begins_anew(monkeypatch):
    monkeypatch.setattr(web, "BACKOFF", 0.5)
    nothing, dropped = BrokenOffError("503"), BrokenOffError("dropped")
    dropped.received = 10
    told = waits(Patience(0), (nothing, 0), (nothing, 0), (dropped, 10), (nothing, 10))
    assert told == [0.5, 1, 0.25, 0.5]


def test_the_server_is_believed_up_to_a_minute(monkeypatch):
    monkeypatch.setattr(web, "BACKOFF", 0.5)
    failures = [(BrokenOffError("503", wait), 0) for wait in (7.0, 86400.0, 0.0)]
    assert waits(Patience(0), *failures) == [7, 60, 2]


def test_patience_ends_after_some_tries_without_a_new_byte_anywhere():
    patience, nothing = Patience(5), BrokenOffError("it answers 503")
    # at the fourth, somebody else got a byte: such a server is worth more patience
    for done in (5, 5, 5, *[6] * web.TRIES_ONCE_SERVED):
        patience.after(nothing, done)
    with pytest.raises(AssetError, match="it answers 503"):
        patience.after(nothing, 6)


def test_who_is_refused_while_others_are_served_waits_longer_and_longer(monkeypatch):
    monkeypatch.setattr(web, "BACKOFF", 1.0)
    refused = BrokenOffError("429")
    assert waits(Patience(0), *((refused, done) for done in range(1, 9))) == [
        1, 2, 4, 8, 16, 32, 60, 60,
    ]  # fmt: skip


# --- a crew ---------------------------------------------------------------------------------------


def run(crew, look, *works):
    with crew:
        for work in works:
            crew.start(work)
        crew.watch(look, lambda: False)


def test_work_that_everybody_left_to_others_is_told():
    """Whoever gives up looks whether others are busy; these may end at that very moment."""
    crew, looked = Crew(), threading.Event()

    def refused():
        raise BrokenOffError("it answers 429")

    def nothing_left():
        looked.wait()
        return False

    def give_up():
        crew.repeat(refused, lambda: 0)
        looked.set()

    with crew:
        crew.start(lambda: crew.repeat(nothing_left, lambda: 0))
        crew.start(give_up)
        with pytest.raises(AssetError, match="it answers 429"):
            crew.watch(lambda: None, lambda: True)


def test_what_one_thread_raises_ends_all_and_is_raised():
    crew = Crew()

    def fail():
        raise AssetError("no")

    with pytest.raises(AssetError, match="no"):
        run(crew, lambda: None, crew.over.wait, crew.over.wait, fail)


def test_who_is_refused_leaves_the_work_to_those_who_are_served():
    crew, given_up, steps = Crew(), threading.Event(), []

    def refused():
        raise BrokenOffError("it answers 429")

    def give_up():
        crew.repeat(refused, lambda: 0)
        given_up.set()

    def served():
        asking.set()
        steps.append(given_up.wait())
        return False

    asking = threading.Event()
    run(
        crew,
        lambda: None,
        lambda: crew.repeat(served, lambda: 0),
        lambda: asking.wait() and give_up(),
    )
    assert steps == [True]


def test_the_last_who_is_refused_tells():
    crew = Crew()

    def refused():
        raise BrokenOffError("it answers 429")

    works = [lambda: crew.repeat(refused, lambda: 0)] * 5
    with pytest.raises(AssetError, match="it answers 429"):
        run(crew, lambda: None, *works)


def test_a_crew_is_watched_until_its_last_thread_has_ended():
    crew, gate, seen = Crew(), threading.Event(), []

    def look():
        seen.append(1)
        gate.set()

    run(crew, look, gate.wait)
    assert seen == [1]


def test_an_interrupt_ends_threads_that_wait_for_a_silent_server(site):
    site.stalls = [100]
    crew, came, ended = Crew(), threading.Event(), threading.Event()

    def work():
        try:
            with ask(f"{site.url}/a") as answer, crew.reading(answer):
                for _ in answer.pieces():
                    came.set()
        finally:
            ended.set()

    def interrupt():
        if came.is_set():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(crew, interrupt, work)
    assert ended.is_set()  # long before READ_TIMEOUT


# --- a few bytes ----------------------------------------------------------------------------------


def test_only_the_rest_is_asked_for_after_a_break(site):
    site.drops = [1000, 2000]
    body, answer = fetch(f"{site.url}/a", (100, 9000))
    assert body == BODY[100:9000]
    assert answer.total == len(BODY)
    assert site.ranges == ["bytes=100-8999", "bytes=1100-8999", "bytes=3100-8999"]
    assert site.sent == 8900


def test_a_few_bytes_are_not_taken_out_of_the_whole_file(site):
    site.ignores_range = True
    with pytest.raises(NoRangesError, match="whole file"):
        fetch(f"{site.url}/a", (10, 20))


def test_a_server_that_always_breaks_off_is_left(site):
    site.drops = [0] * 100
    with pytest.raises(AssetError, match="broke off"):
        fetch(f"{site.url}/a", (10, 20))
    assert len(site.asked) == web.TRIES


# --- the disk -------------------------------------------------------------------------------------


def test_what_does_not_fit_on_the_disk_is_told_in_numbers(tmp_path):
    web.require_room(0, tmp_path)
    with pytest.raises(
        AssetError, match=r"it needs 5,000,000,000 GB, and .* are free in .*free some"
    ):
        web.require_room(5 * 10**18, tmp_path)
