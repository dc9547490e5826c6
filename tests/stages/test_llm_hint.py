"""Hints by a real server on this machine and by a tiny language model on disk."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pytest

from mer_ray import registry
from mer_ray.config import EncoderConfig, HintConfig
from mer_ray.errors import ConfigError, MachineFault, PluginError
from mer_ray.pretrained import architecture
from mer_ray.stages import inputs
from mer_ray.stages.encode import EncodeStage
from mer_ray.stages.llm_hint import LLMHintStage, ranked

CLASSES = ["anger", "joy", "sadness"]
ANSWERS = {"lovely": "1. **Joy**\n2. sadness", "hate": '["anger", "sadness", "joy"]', "hm": "I cannot say."}


class Server(BaseHTTPRequestHandler):
    """Chat completions; a question is answered by the word in it; the first of each is told to come again."""

    seen: list
    key = "Bearer secret"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != self.key:
            return self._send(401, {"error": "no key"})
        question = json.loads(body)["messages"][0]["content"]
        self.seen.append(json.loads(body))
        if "later" in question and sum("later" in str(one) for one in self.seen) == 1:
            return self._send(429, {"error": "slow down"})
        if "broken" in question:
            return self._send(400, {"error": "too long"})
        answer = next((told for word, told in ANSWERS.items() if word in question), "joy")
        return self._send(200, {"choices": [{"message": {"role": "assistant", "content": answer}}]})

    def _send(self, status, tree):
        data = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def address():
    Server.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def transcripts(*texts):
    said = [None if text is None else {"text": text} for text in texts]
    return pa.table({"clip_id": [f"clip{i}" for i in range(len(texts))], "transcript": pa.array(said)})


def hinted(hint, *texts):
    stage = LLMHintStage(hint)
    stage.setup()
    return stage.process(transcripts(*texts)).to_pylist()


def test_a_server_ranks_the_classes_and_bad_answers_cost_their_clip_alone(address, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    hint = HintConfig(endpoint=address, model="llama", classes=CLASSES)
    rows = hinted(hint, "how lovely", None, "I hate it", "hm", "broken", "later")
    assert [row["ranking"] for row in rows] == [
        ["joy", "sadness"],
        None,
        ["anger", "sadness", "joy"],
        [],
        None,
        ["joy"],
    ]
    assert [row["present"] for row in rows] == [True, False, True, True, False, True]
    assert rows[4]["error"] == "failed"
    assert "400" in rows[4]["detail"]
    asked = Server.seen[-1]
    assert (asked["model"], asked["temperature"]) == ("llama", 0)
    assert all("anger, joy, sadness" in one["messages"][0]["content"] for one in Server.seen[1:])


def test_a_server_that_refuses_stops_the_run_before_a_clip_is_asked_about(address, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    stage = LLMHintStage(HintConfig(endpoint=address, model="llama"))
    with pytest.raises(PluginError, match=r"401.*OPENAI_API_KEY"):
        stage.setup()


def test_a_server_that_goes_down_blames_no_clip(address, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    stage = LLMHintStage(HintConfig(endpoint=address, model="llama", classes=CLASSES))
    stage.setup()
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    stage._ask.__self__._session.headers["Authorization"] = "Bearer wrong"
    with pytest.raises(MachineFault, match="refuses: 401"):
        stage.process(transcripts("how lovely", None))
    monkeypatch.setattr("mer_ray.stages.llm_hint._RETRIES.total", 0, raising=False)
    stage._ask.__self__.address = "http://127.0.0.1:9"
    with pytest.raises(MachineFault, match="does not answer"):
        stage.process(transcripts("how lovely", None))


def test_a_model_on_disk_is_asked_in_batches_as_one_by_one():
    weights = registry.find("encoders", "text_llm").tiny()
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    source = weights.config.weights.source
    model = architecture.randomly(lambda: AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(source)))
    folder = architecture.keep_files(model, AutoTokenizer.from_pretrained(source))
    texts = ["how lovely", "I hate all of it, believe me", "no"]
    hint = HintConfig(weights={"source": folder}, classes=CLASSES, max_tokens=8, at_once=2)
    together = hinted(hint, *texts)
    assert [row["present"] for row in together] == [True] * 3
    assert len({row["answer"] for row in together}) > 1
    assert [row["answer"] for row in together] == [hinted(hint, text)[0]["answer"] for text in texts]


@pytest.mark.parametrize(
    ("answer", "ranking"),
    [
        ("Anger, joy, sadness", ["anger", "joy", "sadness"]),
        ("JOY>ANGER", ["joy", "anger"]),
        ("<think>anger!</think>sadness", ["sadness"]),
        ("<think>anger and so on without an end", []),
        ("enjoyment, joyful", []),
        ("", []),
    ],
)
def test_answers_of_any_form_are_read(answer, ranking):
    assert ranked(answer, CLASSES) == ranking


def test_names_of_scripts_without_spaces_are_found():
    assert ranked("我认为是生气,其次开心", ["开心", "生气"]) == ["生气", "开心"]


def test_what_is_wrong_is_told_before_anything_is_started():
    with pytest.raises(ConfigError, match=r"hint\.endpoint"):
        LLMHintStage(HintConfig())
    with pytest.raises(ConfigError, match="places"):
        LLMHintStage(HintConfig(endpoint="http://localhost", prompt="What?"))
    with pytest.raises(ConfigError, match=r"hint\.weights.*sorce"):
        LLMHintStage(HintConfig(weights={"sorce": "models/llm"}))
    with pytest.raises(ConfigError, match="reads no transcript"):
        EncodeStage("voice", EncoderConfig(plugin="logmel", hint="{hint} {text}"), 60.0)


def test_an_encoder_reads_the_hint_with_the_text_and_the_text_where_there_is_none():
    hints = [{"ranking": ["joy", "anger"]}, None, {"ranking": []}]
    batch = transcripts("how lovely", "I hate it", "hm").append_column("hint", pa.array(hints))
    made = inputs.prepare(batch, ["transcript"], "Maybe {hint}. {text}")
    texts = [inputs.read_prepared(row).text for row in made["prepared"]]
    assert texts == ["Maybe joy, anger. how lovely", "I hate it", "hm"]
    stage = EncodeStage("words", EncoderConfig(plugin="ngrams", hint="Maybe {hint}. {text}"), 60.0)
    assert stage.reads == ("transcript", "hint")
    assert stage.spec != EncodeStage("words", EncoderConfig(plugin="ngrams"), 60.0).spec
