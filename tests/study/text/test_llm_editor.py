"""The editor that asks a language model, against a server that misbehaves in the usual ways."""

import email.utils
import json
import math
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from icm_study.text import llm_editor
from icm_study.text.llm_editor import LLMEditor

KEY = "sk-very-secret"
CAPTION = "a photo of a dog on grass"


def chat(text):
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


class Server:
    """Answers each request with the next item of `script`, and then with a good edit, for ever.

    An item is (status, headers, body), or a function of the handler that writes to the
    connection itself."""

    def __init__(self):
        self.script, self.asked, self.headers = [], [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                outer.headers.append((self.path, dict(self.headers)))
                item = outer.script.pop(0) if outer.script else chat(outer.good(body))
                if callable(item):
                    return item(self)
                status, headers, text = item
                self.send_response(status)
                for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    @staticmethod
    def good(body):
        return re.search("Caption: (.*)", body["messages"][1]["content"])[1].replace(
            "photo", "sketch"
        )

    def captions_asked(self):
        return [re.search("Caption: (.*)", b["messages"][1]["content"])[1] for b in self.asked]


class Clock:
    """Time that passes only while someone sleeps."""

    def __init__(self):
        self.now, self.naps = 0.0, []

    def sleep(self, seconds):
        self.naps.append(seconds)
        self.now += seconds

    def __call__(self):
        return self.now


@pytest.fixture
def server(monkeypatch):
    server = Server()
    for name, value in {
        "ICM_LLM_BASE_URL": server.url,
        "ICM_LLM_API_KEY": KEY,
        "ICM_LLM_MODEL": "tiny",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    def editor(class_words=(), **options):
        options = {
            "cache": tmp_path / "edits.jsonl",
            "requests_per_minute": math.inf,
            "timeout": 20.0,
            **options,
        }
        return LLMEditor(class_words, sleep=clock.sleep, clock=clock, **options)

    return editor


def test_a_good_server_is_asked_once_in_the_form_of_the_chat_api(server, make):
    assert make()([CAPTION, CAPTION], ["dog", "dog"], seed=7) == ["a sketch of a dog on grass"] * 2
    (body,), ((path, headers),) = server.asked, server.headers
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["seed"], set(body)) == ("tiny", 7, {"model", "messages", "seed"})
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    assert body["messages"][1]["content"] == f"Caption: {CAPTION}\nObject: dog"


def test_a_netrc_file_does_not_replace_the_key(server, make, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    make()([CAPTION], ["dog"])
    assert server.headers[0][1]["Authorization"] == f"Bearer {KEY}"


def test_with_all_answers_in_the_cache_neither_server_nor_key_is_needed(server, make, monkeypatch):
    first = make()([CAPTION], ["dog"])
    monkeypatch.delenv("ICM_LLM_BASE_URL")
    monkeypatch.delenv("ICM_LLM_API_KEY")
    assert make()([CAPTION], ["dog"]) == first
    monkeypatch.delenv("ICM_LLM_MODEL")
    assert make(model="tiny")([CAPTION], ["dog"]) == first
    assert len(server.asked) == 1


def test_another_seed_model_class_word_or_prompt_is_another_question(server, make, monkeypatch):
    make()([CAPTION], ["dog"])
    make()([CAPTION], ["dog"], seed=1)
    make(model="big")([CAPTION], ["dog"])
    make()([CAPTION], ["dog on grass"])
    monkeypatch.setattr(llm_editor, "PROMPT", "Edit.")
    make()([CAPTION], ["dog"])
    assert len(server.asked) == 5


@pytest.mark.parametrize(
    ("header", "pause"),
    [("7", 7.0), ("0", None), ("", None), ("soon", None), ("Wed, 21 Oct 2015 07:28:00 GMT", None)],
)
def test_429_waits_as_long_as_the_server_asks(server, make, clock, header, pause):
    server.script = [(429, {"Retry-After": header}, "{}")]
    assert make()([CAPTION], ["dog"]) == [Server.good(server.asked[0])]
    (nap,) = clock.naps
    assert nap == pause if pause else 0.5 <= nap <= 1.0


def test_429_with_a_date(server, make, clock):
    server.script = [
        (429, {"Retry-After": email.utils.formatdate(time.time() + 100, usegmt=True)}, "{}")
    ]
    make()([CAPTION], ["dog"])
    assert 50 < clock.naps[0] <= 100


def test_a_server_that_asks_to_wait_for_an_hour_ends_the_run(server, make, clock):
    server.script = [(429, {"Retry-After": "3600"}, '{"error": {"message": "daily quota"}}')]
    with pytest.raises(RuntimeError, match=r"wait 3600 seconds \(status 429: daily quota\)"):
        make()([CAPTION], ["dog"])
    assert (len(server.asked), clock.naps) == (1, [])


def test_pauses_double_and_their_jitter_comes_from_the_seed(server, make, clock, tmp_path):
    def naps(seed, cache):
        del clock.naps[:]
        server.script = [(500, {}, "oops")] * 5
        make(cache=tmp_path / cache)([CAPTION], ["dog"], seed)
        return list(clock.naps)

    first = naps(0, "a.jsonl")
    assert len(first) == 5
    assert all(2**k / 2 <= nap <= 2**k for k, nap in enumerate(first))
    assert naps(0, "b.jsonl") == first
    assert naps(1, "c.jsonl") != first


def cut_short(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')
    handler.close_connection = True


def hang_up(handler):
    handler.close_connection = True


def stall(handler):
    time.sleep(1.0)
    handler.close_connection = True


@pytest.mark.parametrize(
    "fault",
    [
        (500, {}, "oops"), (503, {}, ""), (408, {}, ""),
        (200, {}, '{"choices": [{"mess'), (200, {}, ""),
        (200, {"Content-Encoding": "gzip"}, "not gzip"), cut_short, hang_up,
    ],
)  # fmt: skip
def test_a_passing_fault_is_tried_again(server, make, clock, fault):
    server.script = [fault, fault]
    assert make()([CAPTION], ["dog"]) == ["a sketch of a dog on grass"]
    assert (len(server.asked), len(clock.naps)) == (3, 2)


def test_a_slow_server_is_given_up_and_asked_again(server, make, clock):
    server.script = [stall]
    assert make(timeout=0.2)([CAPTION], ["dog"]) == ["a sketch of a dog on grass"]
    assert (len(server.asked), len(clock.naps)) == (2, 1)


@pytest.mark.parametrize(
    ("answer", "flaw"),
    [
        ("a sketch of a cat on snow", "lacks the word 'dog'"),
        ("a sketch of a hotdog", "lacks the word 'dog'"), (CAPTION, "changes nothing"),
        ("A photo of a dog, on grass.", "changes nothing"), (" ", "empty"),
        ("Sure!\na sketch of a dog", "more than one line"), ("a dog " + "very " * 60, "too long"),
        ("a photo of a dog and a cat", "brings in the word 'cat'"),
    ],
)  # fmt: skip
def test_a_bad_answer_is_asked_again_and_never_kept(server, make, clock, answer, flaw):
    server.script = [chat(answer)]
    editor = make(["dog", "cat", "grass"])
    assert editor([CAPTION], ["dog"]) == ["a sketch of a dog on grass"]
    assert (len(server.asked), clock.naps, len(editor.cache)) == (2, [], 1)
    if answer.strip():
        *_, shown, complaint = server.asked[1]["messages"]
        assert shown == {"role": "assistant", "content": answer.strip()}
        assert flaw in complaint["content"]


@pytest.mark.parametrize(
    "body", ['{"choices": []}', "{}", "[]", "null", '{"choices": [{"message": {"content": null}}]}']
)
def test_an_answer_without_text_is_asked_again(server, make, body):
    server.script = [(200, {}, body)]
    assert make()([CAPTION], ["dog"]) == ["a sketch of a dog on grass"]
    assert server.asked[0] == server.asked[1]


EDIT = "a sketch of a dog on sand"


@pytest.mark.parametrize(
    "decorated",
    [
        f"**{EDIT}**",
        f"*{EDIT}*",
        f"`{EDIT}`",
        f"__{EDIT}__",
        f"**Edited caption:** {EDIT}",
        f"**Edited caption: {EDIT}**",
        f"Edited caption: {EDIT}",
        f'Edited Caption: "{EDIT}"',
        f"Caption: {EDIT}",
        f"Answer: **{EDIT}**",
        f"Here is the edited caption:\n\n{EDIT}",
        f"Here's the edited caption:\n**“{EDIT}”**",
        f"“{EDIT}”",
        f"‘{EDIT}’",
        f"«{EDIT}»",
        f'**"{EDIT}"**',
        f"- {EDIT}",
        f"> {EDIT}",
        f"```\n{EDIT}\n```",
        f"```text\n{EDIT}\n```",
        "a **sketch** of a dog on *sand*",
        f"<think>a **dog**?</think>\n\n**Edited caption:** {EDIT}",
    ],
)
def test_decoration_is_taken_off(server, make, decorated, tmp_path):
    server.script = [chat(decorated)]
    assert make()([CAPTION], ["dog"]) == [EDIT]
    assert len(server.asked) == 1
    lines = (tmp_path / "edits.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == [EDIT]


@pytest.mark.parametrize(
    "plain",
    [
        "a sketch of a dog: its caption is worn",
        "a dog's sketch, 2 * 3 m",
        "it's a dog in the artist's '90s sketch",
        "a sketch of a dog in a 'hat'",
    ],
)
def test_what_is_no_decoration_stays(server, make, plain):
    server.script = [chat(plain)]
    assert make()([CAPTION], ["dog"]) == [plain]


def test_decoration_that_was_kept_by_an_earlier_run_is_taken_off(server, make, tmp_path):
    make()([CAPTION], ["dog"])
    path = tmp_path / "edits.jsonl"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"text": f"**{EDIT}**"}) + "\n")
    assert make()([CAPTION], ["dog"]) == [EDIT]
    assert len(server.asked) == 1


def test_an_answer_may_come_in_parts(server, make):
    parts = [
        {"type": "thinking", "text": "a dog"},
        {"type": "text", "text": "a sketch of a dog"},
        {"type": "text", "text": " on sand"},
        "nothing", {"type": "image_url", "image_url": "x"}, {"type": "text", "text": None},
    ]  # fmt: skip
    server.script = [chat(parts)]
    assert make()([CAPTION], ["dog"]) == [EDIT]
    server.script = [chat([]), chat([{"type": "text"}])]
    assert make()([CAPTION + "!"], ["dog"]) == ["a sketch of a dog on grass!"]


@pytest.mark.parametrize("error", [{"message": "model not loaded"}, "model not loaded"])
def test_an_error_that_comes_with_status_200_is_told(server, make, error):
    server.script = [(200, {}, json.dumps({"error": error}))] * 9
    with pytest.raises(RuntimeError, match=r"refuses a request .*model not loaded.*Check ICM_LLM"):
        make()([CAPTION], ["dog"])
    assert len(server.asked) == 1


def silent(handler):
    time.sleep(0.3)


@pytest.mark.parametrize("heard", [False, True])
def test_a_silent_server_ends_the_run_after_three_requests(server, make, heard):
    server.script = [chat(EDIT)] * heard + [silent] * 50
    captions = [CAPTION, *(f"{CAPTION} {i}" for i in range(5))]
    with pytest.raises(RuntimeError, match=r"has not answered 3 in a row within 0\.1 seconds each"):
        make(timeout=0.1)(captions, ["dog"] * 6)
    assert len(server.asked) == 3 + heard


def test_silence_between_answers_does_not_end_the_run(server, make):
    server.script = [silent, silent, chat(EDIT), silent, silent, chat(EDIT)]
    assert make(timeout=0.1)([CAPTION, f"{CAPTION}!"], ["dog"] * 2) == [EDIT] * 2


def test_quotation_marks_are_taken_off(server, make):
    server.script = [chat('"a sketch of a dog"\n')]
    assert make()([CAPTION], ["dog"]) == ["a sketch of a dog"]


@pytest.mark.parametrize(
    "answer",
    [
        "<think>\nAnother medium; a sketch of a cat?\n</think>\n\n{}",
        "<think></think>{}",
        "I keep the dog.</think>\n{}",
        "[THINK]a sketch of a cat?[/THINK]{}",
        "<|channel|>analysis<|message|>a cat?<|end|><|channel|>final<|message|>{}",
        "<|channel|>final<|message|>{}<|return|>",
        "<THINKING>a</THINKING>\n<think>b</think> '{}' ",
        "{}\n<think>\nIs there more to do? The answer",
    ],
)
def test_what_a_model_thinks_aloud_is_dropped(server, make, answer):
    server.script = [chat(answer.format("a sketch of a dog on grass"))]
    editor = make(["dog", "cat"])
    assert editor([CAPTION], ["dog"]) == ["a sketch of a dog on grass"]
    assert len(server.asked) == 1
    assert "think" not in editor.cache.path.read_text().lower()


def test_a_model_that_never_stops_thinking_ends_the_run_after_a_few_captions(server, make):
    server.script = [chat("<think>\nThe user wants another medium, so")] * 100
    captions = [f"a photo of a dog {i}" for i in range(40)]
    with pytest.raises(
        RuntimeError,
        match=r"(?s)5 of 40 .*'tiny' does not do what it is asked; 35 were not tried.*"
        r"no good answer in 3; of the last one, '<think>.nThe user wants .*', it is empty",
    ):
        make()(captions, ["dog"] * 40)
    assert len(server.asked) == 5 * llm_editor.ATTEMPTS


def test_bad_answers_between_good_ones_do_not_end_the_run(server, make):
    good = Server.good
    server.good = lambda body: "nothing" if "bad" in str(body["messages"][1]) else good(body)
    captions = [f"a photo of a {'good' if i % 5 == 4 else 'bad'} dog {i}" for i in range(20)]
    with pytest.raises(RuntimeError, match=r"(?s)^16 of 20 captions .*edited\. The 4 others"):
        make()(captions, ["dog"] * 20)


@pytest.mark.parametrize(
    "refusal",
    [
        (400, '{"error": {"message": "Unrecognized request argument supplied: seed"}}'),
        (422, '{"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"]}]}'),
    ],
)
def test_a_server_that_refuses_the_seed_is_asked_without(server, make, refusal):
    server.script = [(refusal[0], {}, refusal[1])]
    editor = make()
    captions = [CAPTION, "a photo of a red dog"]
    edited = editor(captions, ["dog"] * 2, seed=5)
    assert edited == [caption.replace("photo", "sketch") for caption in captions]
    assert ["seed" in body for body in server.asked] == [True, False, False]
    assert make()(captions, ["dog"] * 2, seed=5) == edited  # under the same key in the cache
    assert len(server.asked) == 3


def test_captions_without_a_good_answer_are_listed_when_all_others_are_done(server, make):
    server.script = [chat(CAPTION)] * 3
    captions = [CAPTION, "a photo of a horse", "a photo of a guitar"]
    with pytest.raises(
        RuntimeError, match=r"(?s)1 of 3 .* 2 others are kept.*'a photo of a dog on grass': no good"
    ):
        make()(captions, ["dog", "horse", "guitar"])
    assert len(server.asked) == 5
    edited = make()(captions, ["dog", "horse", "guitar"])
    assert edited[1:] == ["a sketch of a horse", "a sketch of a guitar"]
    assert len(server.asked) == 6


def test_a_kept_answer_is_asked_again_if_it_brings_in_a_class_now_known(server, make):
    server.script = [chat("a sketch of a dog on snow")]
    make()([CAPTION], ["dog"])
    assert make(["snow", "dog"])([CAPTION], ["dog"]) == ["a sketch of a dog on grass"]
    assert make()([CAPTION], ["dog"]) == ["a sketch of a dog on grass"]
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 422])
def test_a_refusal_ends_the_run_with_the_servers_message_and_without_the_key(
    server, make, clock, status
):
    message = f"Incorrect API key provided: {KEY}"
    server.script = [
        (status, {"Location": server.url}, json.dumps({"error": {"message": message}}))
    ]
    with pytest.raises(
        RuntimeError, match=rf"status {status}: Incorrect API key provided: \*\*\*"
    ) as error:
        make()([CAPTION, "a red dog"], ["dog", "dog"])
    assert KEY not in str(error.value)
    assert (len(server.asked), clock.naps) == (1, [])


def test_the_key_is_in_no_message_and_no_file(server, make):
    server.script = [(500, {}, f"<p>{KEY}</p>")] * 18
    with pytest.raises(RuntimeError, match=r"status 500: <p>\*\*\*") as error:
        make()(["a dog 1", "a dog 2", "a dog 3"], ["dog"] * 3)
    assert KEY not in str(error.value)
    editor = make()
    editor([CAPTION], ["dog"])
    assert KEY not in editor.cache.path.read_text()
    assert KEY not in str(vars(editor))


def test_a_server_that_was_never_there_ends_the_run_at_once(server, make, clock):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(
        RuntimeError, match=r"Nothing answers at 'http://127.* to which ICM_LLM_BASE_URL is set"
    ):
        make()([f"a photo of a dog {i}" for i in range(10)], ["dog"] * 10)
    assert clock.naps == []


def test_a_host_that_is_not_known_ends_the_run_at_once(server, make, clock, monkeypatch):
    monkeypatch.setenv("ICM_LLM_BASE_URL", "http://nowhere.invalid/v1")
    monkeypatch.setenv("NO_PROXY", "*")
    with pytest.raises(RuntimeError, match=r"Nothing answers at 'http://nowhere\.invalid/v1'"):
        make()([CAPTION], ["dog"])
    assert clock.naps == []


def test_a_server_that_goes_down_ends_the_run_after_three_captions(server, make, clock):
    captions = [f"a photo of a dog {i}" for i in range(10)]
    editor = make()
    editor(["a photo of a cat"], ["cat"])
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(
        RuntimeError, match=r"(?s)3 of 10 .* seems to be down; 7 were not tried.*ConnectionError"
    ):
        editor(captions, ["dog"] * 10)
    assert len(clock.naps) == 3 * (llm_editor.REQUESTS - 1)


def test_the_rate_limit_counts_every_request(server, make, clock):
    starts = []
    server.good = lambda body: (starts.append(clock.now), Server.good(body))[1]
    make(requests_per_minute=10)([f"a photo of a dog {i}" for i in range(4)], ["dog"] * 4)
    assert starts == [0, 6, 12, 18]
    server.script = [(500, {}, "")]
    make(requests_per_minute=10)(["a photo of a horse"], ["horse"])
    assert starts[-1] == pytest.approx(clock.now)
    assert sum(clock.naps[3:]) == pytest.approx(6)  # the pause counts towards the next turn


def test_idle_time_is_not_saved_up_for_a_burst(server, make, clock):
    starts = []
    server.good = lambda body: (starts.append(clock.now), Server.good(body))[1]
    editor = make(requests_per_minute=10)
    clock.now = 1000.0
    editor([f"a photo of a dog {i}" for i in range(3)], ["dog"] * 3)
    assert starts == [1000, 1006, 1012]


def test_interrupted_and_resumed_no_caption_is_asked_twice(server, make, clock):
    captions = [f"a photo of a dog {i}" for i in range(8)]

    def interrupt(seconds):
        if len(server.asked) == 4:
            raise KeyboardInterrupt
        Clock.sleep(clock, seconds)

    editor = make(requests_per_minute=60)
    editor._sleep = interrupt
    with pytest.raises(KeyboardInterrupt):
        editor(captions, ["dog"] * 8)
    edited = make()(captions, ["dog"] * 8)
    assert edited == [caption.replace("photo", "sketch") for caption in captions]
    assert server.captions_asked() == captions


def test_a_line_cut_by_a_kill_costs_that_answer_only(server, make):
    editor = make()
    captions = [f"a photo of a dog {i}" for i in range(3)]
    editor(captions, ["dog"] * 3)
    editor.cache.path.write_bytes(editor.cache.path.read_bytes()[:-20])
    with pytest.warns(UserWarning, match="broken line"):
        resumed = make()
    resumed(captions, ["dog"] * 3)
    assert server.captions_asked() == [*captions, captions[2]]


@pytest.mark.parametrize("key", [None, "", " "])
def test_a_server_may_need_no_key(server, make, monkeypatch, tmp_path, key):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("ICM_LLM_API_KEY")
    if key is not None:
        monkeypatch.setenv("ICM_LLM_API_KEY", key)
    assert make()([CAPTION], ["dog"]) == ["a sketch of a dog on grass"]
    assert "Authorization" not in server.headers[0][1]
    server.script = [(401, {}, '{"error": {"message": "who are you?"}}')]
    with pytest.raises(
        RuntimeError, match=r"status 401: who are you\?.* and ICM_LLM_API_KEY, which is not set"
    ):
        make()(["a new dog"], ["dog"])


def test_what_is_missing_in_the_environment_is_named(server, make, monkeypatch):
    monkeypatch.delenv("ICM_LLM_BASE_URL")
    with pytest.raises(RuntimeError, match="ICM_LLM_BASE_URL is not set"):
        make()([CAPTION], ["dog"])
    monkeypatch.delenv("ICM_LLM_MODEL")
    with pytest.raises(ValueError, match="ICM_LLM_MODEL"):
        make()


def test_an_address_or_a_key_that_cannot_be_used(server, make, monkeypatch):
    monkeypatch.setenv("ICM_LLM_BASE_URL", "api.example.org/v1")
    with pytest.raises(RuntimeError, match=r"ICM_LLM_BASE_URL is 'api\.example\.org/v1'"):
        make()([CAPTION], ["dog"])
    monkeypatch.setenv("ICM_LLM_BASE_URL", server.url + "/")
    monkeypatch.setenv("ICM_LLM_API_KEY", "sk\nsecret")
    with pytest.raises(RuntimeError, match="characters that no key has") as error:
        make()([CAPTION], ["dog"])
    assert "secret" not in str(error.value)
    monkeypatch.setenv("ICM_LLM_API_KEY", f"{KEY}\n")
    assert make()([CAPTION], ["dog"]) == ["a sketch of a dog on grass"]
    assert server.headers[0][0] == "/v1/chat/completions"
    for address in (f"api.example.org/{KEY}", f"http://127.0.0.1:1/{KEY}"):
        monkeypatch.setenv("ICM_LLM_BASE_URL", address)
        with pytest.raises(RuntimeError, match=r"\*\*\*") as error:
            make()(["a new dog"], ["dog"])
        assert KEY not in str(error.value)


@pytest.mark.parametrize("options", [{"requests_per_minute": 0}, {"timeout": -1}])
def test_numbers_must_be_positive(make, options):
    with pytest.raises(ValueError, match="must be positive"):
        make(model="m", **options)
