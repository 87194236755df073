"""A caption editor that asks a language model.

The model sits behind a server that speaks OpenAI's chat API (``POST
{base_url}/chat/completions``), as hosted services and local servers do. Servers refuse,
stall and break off, and models think aloud and answer what was not asked. So a request
is repeated with growing pauses where that can help; reasoning is dropped; an answer
counts only if the class word is still in it, something has changed, and it is one line
of bounded length; and what counts is kept at once in a JSONL file, from which the study
is repeated without the server.
"""

import email.utils
import operator
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import requests
import tenacity
from tqdm import tqdm
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from icm_study.text.answers import JsonlCache
from icm_study.text.captions import check_pairs, has_word, whole_words

BASE_URL, MODEL, API_KEY = "ICM_LLM_BASE_URL", "ICM_LLM_MODEL", "ICM_LLM_API_KEY"

PROMPT = (
    "You edit captions of images. You are given a caption and the name of the object in it. "
    "Change what a new picture of the same object could show differently: the medium or style, "
    "the colors, the background, the light, the weather, the time, the viewpoint. Give each of "
    "these that the caption mentions a clearly different value. If it mentions none, add a "
    "background. Keep the object, its name exactly as given, and what it is; bring in no other "
    "object of a similar kind. Keep the form and about the length of the caption. Answer with the "
    "edited caption only: one line, no quotation marks, no explanation."
)

REQUESTS = (
    6  # how often one question is sent, in all, where the server is busy, broken or out of reach
)

ATTEMPTS = 3  # how many answers to one caption are looked at until one is good

BACKOFF = (
    1.0  # seconds; the first pause is half to all of it, and each further one is twice as long
)

LONGEST_PAUSE = 300.0  # seconds; a server that asks for more has closed for now

REFUSALS = 5  # so many captions in a row without a good answer, and the model is not fit for it

REASONING = "think|thinking|thought|reasoning"  # the tags in which models think aloud

TIMEOUTS = 3  # so many requests in a row without an answer in time, and the server is stuck

#: What models write before the caption that they were asked for alone.
LABEL = re.compile(
    r"^(?:[\w' ]{0,40}\bcaption|answer|output|result|edit(?:ed)?(?: version)?)\s*:",
    re.IGNORECASE,
)

QUOTES = ('""', "''", "“”", "„“", "‘’", "«»")

SILENCES = 3  # so many captions in a row without any answer, and the server is taken to be down


class LLMEditor:
    """Edit captions with a language model.

    The server's address, the model and the key are taken from the environment variables
    ``ICM_LLM_BASE_URL`` (such as ``https://api.openai.com/v1``), ``ICM_LLM_MODEL`` and
    ``ICM_LLM_API_KEY``, if the server asks for one. Address and key are looked for only
    when a request has to be made: with all answers in the cache, the model's name is
    enough.

    Parameters
    ----------
    class_words : sequence of str
        The class words of the whole data set. An answer that brings one in is refused.
    cache : path-like
        The JSONL file of accepted answers, keyed by prompt, caption, class word, model and seed.
    model : str, optional
        The model's name. Default: ``ICM_LLM_MODEL``.
    requests_per_minute : float
        The rate limit; repeated requests count.
    timeout : float
        Seconds to wait for the server to accept, and then for each part of its answer.
    sleep, clock : callable
        How to wait, and how to read the time, in seconds.

    Raises
    ------
    ValueError
        If no model is named, or a number is not positive.
    """

    def __init__(
        self,
        class_words: Sequence[str] = (),
        *,
        cache: str | os.PathLike[str],
        model: str | None = None,
        requests_per_minute: float = 60.0,
        timeout: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        model = model or os.environ.get(MODEL)
        if not model:
            raise ValueError(f"no language model is named; set {MODEL}, or pass model=.")
        if requests_per_minute <= 0 or timeout <= 0:
            raise ValueError(
                f"requests_per_minute is {requests_per_minute} and timeout is {timeout}; "
                f"both must be positive."
            )
        self._classes = whole_words(class_words) if class_words else None
        self.model = model
        self.cache = JsonlCache(cache)
        self.timeout = timeout
        self._interval = 60.0 / requests_per_minute
        self._sleep, self._clock = sleep, clock
        self._next_request = clock()
        self._was_heard = False  # whether the server has ever answered
        self._timeouts = 0  # requests in a row that were not answered in time
        self._takes_seed = True

    def __call__(
        self, captions: Sequence[str], class_words: Sequence[str], seed: int = 0
    ) -> list[str]:
        """Edit captions; those in the cache are not asked for again.

        Parameters
        ----------
        captions, class_words : sequence of n str
        seed : int
            Part of the cache's key, and sent to the server, which may or may not heed it;
            one that refuses it is asked without.

        Returns
        -------
        list of n str

        Raises
        ------
        TypeError, ValueError
            If captions and class words do not fit together, or a caption lacks its class word.
        RuntimeError
            If something is missing in the environment; if nothing listens at the
            address, or several requests in a row get no answer in time; if the server
            refuses (status 400, 401, 403, 404 and the like), with its message; if a few
            captions in a row have no good answer, with what the model said; or, after all
            others are done, if some have none, with a list of them. What was answered is
            in the cache.
        """
        check_pairs(captions, class_words)
        seed = operator.index(seed)
        pairs = list(zip(captions, class_words, strict=True))
        todo = list(dict.fromkeys(pairs))
        edits: dict[tuple[str, str], str] = {}
        failures: list[str] = []
        silences = refusals = 0
        for caption, word in tqdm(todo, "captions edited", disable=not todo):
            try:
                edit = self._recall(caption, word, seed) or self._edit(caption, word, seed)
                edits[caption, word] = edit
                silences = refusals = 0
            except _NoGoodAnswer as error:
                failures.append(f"{caption!r}: {error}")
                silences, refusals = 0, refusals + 1
            except _TryAgain as error:
                failures.append(f"{caption!r}: {error}")
                silences += 1
            if silences == SILENCES or refusals == REFUSALS:
                break
        if failures:
            stopped = "The server seems to be down" if silences == SILENCES else ""
            if refusals == REFUSALS:
                stopped = f"The model {self.model!r} does not do what it is asked"
            raise RuntimeError(self._report(failures, len(edits), len(todo), stopped))
        return [edits[pair] for pair in pairs]

    def _key(self, caption: str, word: str, seed: int) -> dict[str, str | int]:
        return {
            "prompt": PROMPT,
            "caption": caption,
            "class_word": word,
            "model": self.model,
            "seed": seed,
        }

    def _recall(self, caption: str, word: str, seed: int) -> str | None:
        """Take an edit from the cache, if it is good for the class words at hand."""
        edit = _without_reasoning(self.cache.get(self._key(caption, word, seed)) or "")
        return None if self._flaw(edit, caption, word) else edit

    def _report(self, failures: list[str], n_done: int, n: int, stopped: str) -> str:
        left = n - n_done - len(failures)
        stopped = f" {stopped}; {left} were not tried." if stopped and left else ""
        return (
            f"{len(failures)} of {n} captions could not be edited.{stopped} The {n_done} others "
            f"are kept in {str(self.cache.path)!r} and are not asked for again; run again to try "
            "the rest, or leave these out:\n" + "\n".join(failures)
        )

    def _edit(self, caption: str, word: str, seed: int) -> str:
        """Ask until an answer is good, and keep it; show the model what is wrong with a bad one."""
        question = [
            {"role": "system", "content": PROMPT},
            {"role": "user", "content": f"Caption: {caption}\nObject: {word}"},
        ]
        said = flaw = ""
        for _ in range(ATTEMPTS):
            said = self._ask(question, seed)
            answer = _without_reasoning(said)
            flaw = self._flaw(answer, caption, word)
            if not flaw:
                self.cache.put(self._key(caption, word, seed), answer)
                return answer
            if answer:
                question = [
                    *question[:2],
                    {"role": "assistant", "content": answer},
                    {
                        "role": "user",
                        "content": f"Not accepted: {flaw}. Answer with the edited caption only.",
                    },
                ]
        raise _NoGoodAnswer(f"no good answer in {ATTEMPTS}; of the last one, {said!r:.200}, {flaw}")

    def _flaw(self, answer: str, caption: str, word: str) -> str:
        """Say what is wrong with an answer; the empty string where nothing is."""
        if not answer:
            return "it is empty"
        if len(answer.splitlines()) > 1:
            return "it has more than one line"
        if len(answer) > 2 * len(caption) + 80:
            return f"it is too long, {len(answer)} characters"
        if not has_word(answer, word):
            return f"it lacks the word {word!r}"
        if _letters(answer) == _letters(caption):
            return "it changes nothing"
        if self._classes:
            before, after = (set(self._classes.findall(text.lower())) for text in (caption, answer))
            if after - before:
                return f"it brings in the word {min(after - before)!r}"
        return ""

    def _ask(self, messages: list[dict[str, str]], seed: int) -> str:
        """Send a question, again after a pause where that may help; return the answer's text."""
        rng = random.Random(f"{seed} {messages}")

        def pause(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.retry_after if isinstance(error, _TryAgain) else 0.0
            return max(asked, rng.uniform(0.5, 1.0) * BACKOFF * 2 ** (state.attempt_number - 1))

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TryAgain), wait=pause,
            stop=tenacity.stop_after_attempt(REQUESTS), sleep=self._sleep, reraise=True,
        )  # fmt: skip
        return retrying(self._post, {"model": self.model, "messages": messages}, seed)

    def _post(self, body: dict[str, Any], seed: int) -> str:
        """Send one request when its turn has come, and return the text of the answer."""
        url, key = _server()
        response = self._send(url, key, body | ({"seed": seed} if self._takes_seed else {}))
        if self._takes_seed and _refuses(response, "seed"):
            self._takes_seed = False
            response = self._send(url, key, body)
        said = _hide(key, f"status {response.status_code}: {_message(response)}")
        if response.status_code in (408, 429) or response.status_code >= 500:
            retry_after = _retry_after(response)
            if retry_after > LONGEST_PAUSE:
                raise RuntimeError(
                    f"The server of {BASE_URL} asks to wait {retry_after:.0f} seconds ({said}). "
                    f"Run again then; what was answered is kept in {str(self.cache.path)!r}."
                )
            raise _TryAgain(said, retry_after)
        is_error = isinstance(answer := _json(response), dict) and bool(answer.get("error"))
        if response.status_code != 200 or is_error:
            raise RuntimeError(
                f"The server of {BASE_URL} refuses a request to the model {self.model!r} "
                f"({said}). Check {BASE_URL} (it often ends in /v1), {MODEL} and {API_KEY}"
                f"{'' if key else ', which is not set'}."
            )
        if answer is None:
            said = f"the answer is not JSON: {_message(response)}"
            raise _TryAgain(_hide(key, said))
        return _text(answer)

    def _send(self, url: str, key: str, body: dict[str, Any]) -> requests.Response:
        wait = self._next_request - self._clock()
        if wait > 0:
            self._sleep(wait)
        self._next_request = self._clock() + self._interval

        def authorize(request: requests.PreparedRequest) -> requests.PreparedRequest:
            # as `auth`, since requests lets a .netrc file overrule a plain header
            if key:
                request.headers["Authorization"] = f"Bearer {key}"
            return request

        try:
            response = requests.post(
                f"{url}/chat/completions",
                json=body,
                auth=authorize,
                timeout=self.timeout,
                allow_redirects=False,
            )
        except _PASSING as error:
            said = _hide(key, f"{type(error).__name__}: {error}")
            self._timeouts += isinstance(error, requests.ReadTimeout)
            if self._timeouts == TIMEOUTS:
                raise RuntimeError(
                    f"The server of {BASE_URL} takes requests and has not answered {TIMEOUTS} in a "
                    f"row within {self.timeout:g} seconds each. It may be loading the model, or be "
                    f"stuck: ask it by hand, and run again, with a longer timeout if it is slow. "
                    f"What was answered is kept in {str(self.cache.path)!r}."
                ) from None
            if self._was_heard or not _finds_nobody(error):
                raise _TryAgain(said) from None
            raise RuntimeError(
                f"Nothing answers at {_hide(key, repr(url))}, to which {BASE_URL} is set ({said}). "
                "Start the server, or correct the address."
            ) from None
        except (requests.RequestException, ValueError) as error:
            raise RuntimeError(_hide(key, f"{BASE_URL} is {url!r}: {error}")) from None
        self._was_heard, self._timeouts = True, 0
        return response


class _TryAgain(Exception):
    """What a pause may mend: no answer from the server, or a broken one."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class _NoGoodAnswer(Exception):
    """The model answers, and never well."""


_PASSING = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)


def _server() -> tuple[str, str]:
    """Read the server's address and the key, empty if there is none, from the environment."""
    url, key = (os.environ.get(name, "").strip() for name in (BASE_URL, API_KEY))
    if not url:
        raise RuntimeError(
            f"The language model has to be asked, and {BASE_URL} is not set. Set it to the "
            f"address that ends before /chat/completions, and {API_KEY} to the key if the "
            "server asks for one; or use a cache that has all answers; or the editor 'rules'."
        )
    if not (key.isascii() and key.isprintable()):
        raise RuntimeError(f"{API_KEY} has characters that no key has; copy it again.")
    return url.rstrip("/"), key


def _hide(key: str, text: str) -> str:
    return text.replace(key, "***") if key else text


def _finds_nobody(error: requests.RequestException) -> bool:
    """Tell whether no connection came about: a closed port, an unknown host, no way there."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, NewConnectionError | ConnectTimeoutError)


def _refuses(response: requests.Response, field: str) -> bool:
    """Tell whether a server finds fault with a field of the request."""
    refused = response.status_code in (400, 422)
    return refused and re.search(rf"\b{field}\b", response.text) is not None


def _json(response: requests.Response) -> Any:
    """Read an answer's JSON; None where it is none."""
    try:
        return response.json()
    except ValueError:
        return None


def _message(response: requests.Response) -> str:
    """Return what a server says of an error: OpenAI's message, or the first of the text."""
    match _json(response):
        case {"error": {"message": str(message)}}:
            return message
    return " ".join(response.text.split())[:300]


def _retry_after(response: requests.Response) -> float:
    """Seconds that the server asks to wait: a number or a date; 0 where it does not say."""
    value = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        date = email.utils.parsedate_tz(value)
        return max(0.0, email.utils.mktime_tz(date) - time.time()) if date else 0.0


def _text(answer: Any) -> str:
    """Take the text out of the server's answer."""
    match answer:
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return text
        case {"choices": [{"message": {"content": [*parts]}}, *_]}:
            return "".join(part["text"] for part in parts if _is_text(part))
    return ""


def _is_text(part: Any) -> bool:
    match part:
        case {"type": "text" | "output_text", "text": str()}:
            return True
    return False


def _without_reasoning(text: str) -> str:
    """Drop what a model thinks aloud in tags, also where one of a pair is missing.

    And what comes before its last message, where a server hands on the marks between them.
    """
    text = text.split("<|message|>")[-1].split("<|")[0]
    text = re.split(rf"[<\[]/(?:{REASONING})[>\]]", text, flags=re.IGNORECASE)[-1]
    return _undecorated(re.split(rf"[<\[](?:{REASONING})[>\]]", text, flags=re.IGNORECASE)[0])


def _undecorated(text: str) -> str:
    """Take away what is around an answer: a label, Markdown, quotation marks, blanks."""
    before = None
    while text != before:
        before = text
        text = re.sub(r"^```\w*\n(.*)\n```$", r"\1", text.strip(), flags=re.DOTALL)
        text = re.sub(r"(\*\*|__|[*`])(?=\S)(.+?)(?<=\S)\1", r"\2", text)
        text = re.sub(r"^[-*•>#]+\s+", "", text.strip())
        text = LABEL.sub("", text, count=1)
        if len(text) > 1 and text[0] + text[-1] in QUOTES:
            text = text[1:-1]
    return text


def _letters(text: str) -> str:
    """Reduce a text to its letters and digits, in lower case."""
    return "".join(filter(str.isalnum, text.casefold()))
