"""`pairs sample` against a chat server on the loopback: what it sends, the file it writes, and how it goes on."""

import base64
import io
import json
import threading

import pytest
import torch
from PIL import Image
from serving import reply, serving

from lit_vpo.cli import main
from lit_vpo.datamodules import Collator, PromptDataModule, Source, decode
from lit_vpo.datamodules.clips import ClipReader
from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.mix import Mix
from lit_vpo.datamodules.overlay import write_overlay
from lit_vpo.datamodules.reader import RecordReader
from lit_vpo.endpoint import KEY_VARIABLE
from lit_vpo.models import load_processor
from lit_vpo.modules import SFTModule
from lit_vpo.modules.generation import answer_rows
from lit_vpo.pair_sampling import Drawing

NAME = "motion_world_base"  # untrained models do not end their answers
SCORER = ["--scorer", "lit_vpo.datamodules.motion_world.score_caption"]


@pytest.fixture(autouse=True)
def no_key_and_no_waits(monkeypatch):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.setattr("lit_vpo.endpoint.time.sleep", lambda seconds: None)


def by_seed(body):
    """An answer that depends on all of the request."""
    text = body["messages"][-1]["content"][-1]["text"]
    return reply(f"{text} {body['seed'] % 97}", "length" if body["seed"] % 5 == 0 else "stop")


def sample(server, world, out, *words):
    main(["pairs", "sample", str(world), "--out", str(out), "--endpoint", server.url, "--served", "policy", *words])


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def overlay_of(world, *names):
    """Prompts of a world's overlays; a whole path may stand for a name."""
    return RecordReader(
        Manifest.load(world), Mix.load(",".join(str(world / f"{name}.jsonl") for name in names)).overlay
    )


def test_the_file_is_that_of_predict_and_selection_takes_it(world, tmp_path, capsys):
    out = tmp_path / "candidates.jsonl"
    words = ["--num-candidates", "3", "--seed", "4", "--round", "2", "--temperature", "0.7", "--max-new-tokens", "60"]
    overlays = f"{world}/captions.jsonl,{world}/intervals.jsonl"
    with serving(by_seed) as server:
        sample(server, world, out, "--overlay", overlays, "--concurrency", "4", *words)
    drawing = Drawing(3, 0.7, 0.9, 60, seed=4, round=2)
    expected, reader = [], overlay_of(world, "captions", "intervals")
    for record in map(reader.record, range(len(reader))):
        requests = [drawing.request(record["id"], number) for number in range(3)]
        answers = [(f"{record['prompt']} {r['seed'] % 97}", r["seed"] % 5 != 0) for r in requests]
        expected += answer_rows(record, answers)
    rows = rows_of(out)
    models = [row.pop("model") for row in rows]
    assert rows == expected and len({row["id"] for row in rows}) == len(rows) == 32 * 3
    assert all(model == models[0] for model in models) and models[0]["name"] == "policy"
    assert models[0]["drawing"]["round"] == 2
    assert len({body["seed"] for body in server.bodies}) == len(server.bodies) == 32 * 3
    assert all((b["temperature"], b["top_p"], b["max_tokens"]) == (0.7, 0.9, 60) for b in server.bodies)
    assert "96 answers to 32 prompts, 96 of them new (288 tokens in " in capsys.readouterr().out
    assert not out.with_name("candidates.jsonl.part").exists() and rows_of(tmp_path / "candidates.dropped.jsonl") == []
    with pytest.raises(ValueError, match="no pair left of 32"):  # all judged, all equally wrong
        main(["pairs", "select", str(out), "--out", str(tmp_path / "pairs.jsonl"), *SCORER])


def test_the_whole_video_or_the_frames_that_the_record_shows_are_sent(world, tmp_path):
    reader = RecordReader(Manifest.load(world))
    key = reader.rows[0]["key"]
    rows = [
        {"key": key, "id": "whole", "prompt": "What moves?"},
        {"key": key, "id": "text", "prompt": "Hello?", "media": {"video": None}},
        {"key": key, "id": "talk", "prompt": "And then?", "history": [
            {"role": "user", "content": "What moves?"}, {"role": "assistant", "content": "A star."}]},
        {"key": key, "id": "part", "prompt": "What moves?", "media": {"start_s": 1.0, "end_s": 3.0}},
    ]  # fmt: skip
    write_overlay(tmp_path / "whole.jsonl", rows[:3])
    write_overlay(tmp_path / "all.jsonl", rows)
    with serving(by_seed) as server:
        words = ["--num-candidates", "1", "--concurrency", "1"]
        sample(server, world, tmp_path / "v.jsonl", "--overlay", str(tmp_path / "whole.jsonl"), *words)
        with pytest.raises(ValueError, match=r"prompt part shows a part .*send it with --frames N"):
            sample(server, world, tmp_path / "w.jsonl", "--overlay", str(tmp_path / "all.jsonl"), *words)
        whole, text, talk = (body["messages"] for body in server.bodies[:3])
        server.bodies.clear()
        sample(server, world, tmp_path / "f.jsonl", "--overlay", str(tmp_path / "all.jsonl"), "--frames", "3", *words)
        part = server.bodies[3]["messages"]
    kind, payload = whole[0]["content"][0]["video_url"]["url"].split(",")
    assert kind == "data:video/mp4;base64" and base64.b64decode(payload) == reader.video(0)
    assert whole[0]["content"][1:] == [{"type": "text", "text": "What moves?"}]
    assert text == [{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}]
    assert [m["role"] for m in talk] == ["user", "assistant", "user"]
    assert talk[0] == whole[0] and talk[2]["content"] == [{"type": "text", "text": "And then?"}]
    urls = [piece["image_url"]["url"] for piece in part[0]["content"][:-1]]
    assert len(urls) == 3 and all(url.startswith("data:image/jpeg;base64,") for url in urls)
    overlaid = overlay_of(world, tmp_path / "all")
    shown = ClipReader(overlaid, 3).clip(3, overlaid.record(3)).frames
    for url, frame in zip(urls, shown, strict=True):
        image = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))
        sent = torch.tensor(list(image.getdata())).reshape(image.height, image.width, 3).permute(2, 0, 1)
        assert (sent - frame.long()).abs().float().mean() < 4  # JPEG
    assert [row["id"] for row in rows_of(tmp_path / "f.jsonl")] == ["whole", "text", "talk", "part"]


def test_as_many_requests_as_asked_for_go_at_once(world, tmp_path):
    meeting = threading.Barrier(3)

    def slow(body):
        meeting.wait(10)  # three must be here before one goes on
        return by_seed(body)

    with serving(slow) as server:
        sample(server, world, tmp_path / "c.jsonl", "--concurrency", "3", "--num-candidates", "3", "--limit", "6")
    assert server.most == 3 and len(server.bodies) == 18


def test_a_cut_run_goes_on_and_writes_the_same_file(world, tmp_path):
    straight, out = tmp_path / "straight.jsonl", tmp_path / "candidates.jsonl"
    words = ["--overlay", str(world / "captions.jsonl"), "--concurrency", "1"]

    def dies_after(number):
        def respond(body):
            return by_seed(body) if len(server.bodies) <= number else (500, "gone")

        return respond

    with serving(by_seed) as server:
        sample(server, world, straight, *words)
    with serving(lambda body: dies_after(7)(body)) as server, pytest.raises(ValueError, match="gave no answer"):
        sample(server, world, out, *words)
    part = out.with_name("candidates.jsonl.part")
    assert not out.exists() and len(rows_of(part)) == 6  # three prompts; the fourth lacks a candidate
    with part.open("a") as file:
        file.write(part.read_text()[:30])  # and a line that a kill cut
    with serving(by_seed) as server:
        sample(server, world, out, *words)
        assert len(server.bodies) == 32 - 6 and out.read_bytes() == straight.read_bytes()
        sample(server, world, out, *words)  # whole already
        assert len(server.bodies) == 32 - 6 and out.read_bytes() == straight.read_bytes()
        sample(server, world, out, *words, "--seed", "1")
        assert len(server.bodies) == 32 - 6 + 32 and out.read_bytes() != straight.read_bytes()


def test_answers_to_prompts_that_have_changed_are_asked_anew(world, tmp_path):
    rows = [{"key": sample.key, "id": sample.key, "prompt": "What moves?"} for sample in Manifest.load(world).samples]
    write_overlay(tmp_path / "o.jsonl", rows)
    with serving(by_seed) as server:
        sample(server, world, tmp_path / "c.jsonl", "--overlay", str(tmp_path / "o.jsonl"))
        write_overlay(tmp_path / "o.jsonl", [{**rows[0], "prompt": "What grows?"}, *rows[1:]])
        server.bodies.clear()
        sample(server, world, tmp_path / "c.jsonl", "--overlay", str(tmp_path / "o.jsonl"))
    assert [body["messages"][0]["content"][-1]["text"] for body in server.bodies] == ["What grows?"] * 2
    assert [row["prompt"] for row in rows_of(tmp_path / "c.jsonl")] == ["What grows?"] * 2 + ["What moves?"] * 14


def test_prompts_that_the_server_refuses_are_dropped_by_name(world, tmp_path, capsys):
    keys = [sample.key for sample in Manifest.load(world).samples]
    rows = [{"key": key, "id": key, "prompt": f"Number {number}?"} for number, key in enumerate(keys)]
    write_overlay(tmp_path / "o.jsonl", [*rows[:-1], {**rows[-1], "prompt": " "}])

    def picky(body):
        return (400, "too long") if "Number 2?" in str(body["messages"]) else by_seed(body)

    with serving(picky) as server:
        sample(server, world, tmp_path / "c.jsonl", "--overlay", str(tmp_path / "o.jsonl"))
    dropped = rows_of(tmp_path / "c.dropped.jsonl")
    assert [(row["id"], row["reason"]) for row in dropped] == [
        (keys[2], "status 400: too long"),
        (keys[7], "empty prompt"),
    ]
    assert [row["prompt_id"] for row in rows_of(tmp_path / "c.jsonl")[::2]] == [keys[n] for n in (0, 1, 3, 4, 5, 6)]
    assert "dropped 1: status 400: too long" in capsys.readouterr().out
    with (
        serving(lambda body: (422, "no")) as server,
        pytest.raises(ValueError, match="no prompt of 8 was answered; the"),
    ):
        sample(server, world, tmp_path / "none.jsonl", "--limit", "8")
    assert not (tmp_path / "none.jsonl").exists()


def test_a_refused_key_stops_at_once(world, tmp_path):
    with serving(by_seed, "key") as server, pytest.raises(ValueError, match=f"wants a key in .* {KEY_VARIABLE}"):
        sample(server, world, tmp_path / "c.jsonl", "--concurrency", "1")
    assert not (tmp_path / "c.jsonl").exists()


def test_settings_that_cannot_work(world, tmp_path):
    wrong = ({"num_candidates": 0}, {"top_p": 0.0}, {"temperature": -1.0}, {"max_new_tokens": 0}, {"num_frames": 0})
    for settings in (*wrong, {"round": -1}):
        with pytest.raises(ValueError, match="need "):
            Drawing(**settings)
    with pytest.raises(ValueError, match="all candidates are the likeliest answer"):
        Drawing(2, temperature=0)
    with serving(by_seed) as server, pytest.raises(ValueError, match="concurrency must be >= 1"):
        sample(server, world, tmp_path / "c.jsonl", "--concurrency", "0")


def test_a_server_that_reads_what_it_is_sent_gives_the_file_that_predict_writes(world, tmp_path):
    """The served model sees the video's bytes and the prompt alone."""
    source = Source(str(world), f"{world}/captions.jsonl,{world}/intervals.jsonl", limit=4)
    data = PromptDataModule(NAME, predict=source, num_frames=4, batch_size=1)
    module = SFTModule(NAME, max_new_tokens=40, check_video=False)
    module.configure_model()
    module.eval()
    expected = [row for batch in data.predict_dataloader() for row in module.generations(batch)]
    collator = Collator(load_processor(NAME), "prompt")

    def served(body):
        video, text = body["messages"][0]["content"]
        clip = decode(base64.b64decode(video["video_url"]["url"].split(",")[1]), 4)
        record = {"id": "any", "prompt": text["text"], "media": {}}
        ((answer, finished),) = module.generate(collator([(record, clip)]))
        return reply(answer, "stop" if finished else "length")

    words = ["--overlay", source.overlay, "--limit", "4", "--num-candidates", "1", "--temperature", "0"]
    with serving(served) as server:
        sample(server, world, tmp_path / "c.jsonl", "--concurrency", "1", *words)
    rows = rows_of(tmp_path / "c.jsonl")
    assert [row.pop("model")["name"] for row in rows] == ["policy"] * 4
    assert rows == expected and len({row["response"] for row in rows}) > 1
