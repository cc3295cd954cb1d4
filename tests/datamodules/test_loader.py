import json
from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from clip_factory import write_shards
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_vpo.datamodules.clips import ClipReader
from lit_vpo.datamodules.collate import Collator
from lit_vpo.datamodules.loader import ShardLoader
from lit_vpo.datamodules.manifest import Manifest
from lit_vpo.datamodules.overlay import Overlay
from lit_vpo.datamodules.quarantine import BadSample, read_quarantine
from lit_vpo.datamodules.reader import RecordReader


class Keys(LightningModule):
    """Notes the ids of the batches it trains on; raises before batch ``stop_at``."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.stop_at = [], stop_at

    def training_step(self, batch, batch_idx):
        if self.stop_at is not None and len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        self.seen.append([record["id"] for record in batch["records"]])
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="module")
def rows():
    """Seven records over six clips: four batches of two, the last one short."""
    keys = ["s0", "s1", "s2", "s3", "s4", "s5", "s0"]
    return [{"key": key, "id": f"r{number}"} for number, key in enumerate(keys)]


@pytest.fixture
def make(shards, llava, rows):
    def loader(**options):
        reader = RecordReader(
            Manifest.load(options.pop("folder", shards)), options.pop("overlay", Overlay(tuple(rows)))
        )
        options = {"batch_size": 2, "num_frames": 4, "size": 16, "max_bad_fraction": 1.0} | options
        return ShardLoader(reader, options.pop("collator", Collator(llava, "instruction")), **options)

    return loader


def ids(batches):
    return [[record["id"] for record in batch["records"]] for batch in batches]


def test_an_epoch_holds_every_row_once_and_the_next_one_in_another_order(make):
    loader = make()
    first, second = ids(loader), ids(loader)
    assert [len(batch) for batch in first] == [2, 2, 2, 1] and len(loader) == 4
    assert (
        Counter(chain.from_iterable(first))
        == Counter(chain.from_iterable(second))
        == Counter(f"r{n}" for n in range(7))
    )
    assert first != second and loader.epoch == 2 and loader.cursor == 8
    again = make()
    assert [ids(again), ids(again)] == [first, second]


def test_batches_do_not_depend_on_the_number_of_workers(make):
    for one, other in zip(make(), make(num_workers=2), strict=True):
        assert one["records"] == other["records"]
        assert torch.equal(one["input_ids"], other["input_ids"])
        assert torch.equal(one["media"]["pixel_values_videos"], other["media"]["pixel_values_videos"])


def test_the_state_is_counted_before_the_batch_is_handed_over_and_resumes_there(make):
    straight = make()
    expected = [*ids(straight), *ids(straight)]
    for done in range(8):
        cut = make()
        taken, iterator = [], iter(cut)
        while len(taken) < done:
            try:
                taken.append(next(iterator))
            except StopIteration:
                iterator = iter(cut)
        assert cut.state_dict()["cursor"] == done
        resumed = make()
        resumed.load_state_dict(json.loads(json.dumps(cut.state_dict())))
        rest = ids(resumed) + (ids(resumed) if done < 4 else [])
        assert ids(taken) + rest == expected
        assert len(resumed) == 4


def test_the_global_generator_is_left_alone(make):
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    list(make(num_workers=1))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("limits", [{"max_steps": 10, "max_epochs": -1}, {"max_epochs": 3}])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop_at", [3, 4, 5])
def test_a_cut_and_resumed_run_trains_on_the_same_keys(make, tmp_path, limits, workers, stop_at):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    straight = Keys()
    Trainer(**quiet, **limits, enable_checkpointing=False).fit(straight, make())
    cut = Keys(stop_at)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_last=True, save_top_k=1)
    with pytest.raises(SystemExit):
        Trainer(**quiet, **limits, callbacks=[saver]).fit(cut, make(num_workers=workers))
    resumed = Keys()
    loader = make(num_workers=workers)
    Trainer(**quiet, **limits, enable_checkpointing=False).fit(resumed, loader, ckpt_path=tmp_path / "last.ckpt")
    assert cut.seen + resumed.seen == straight.seen
    assert len(straight.seen) == (10 if "max_steps" in limits else 12) == loader.cursor


def test_other_data_seed_or_batch_size_is_refused_by_name(make, tmp_path, clips, rows):
    state = make().state_dict()
    assert {name: state[name] for name in ("cursor", "done")} == {"cursor": 0, "done": 0}
    other = write_shards(tmp_path / "other", clips[::-1])
    changes = {
        "manifest_hash": {"folder": other},
        "overlay_hash": {"overlay": Overlay(tuple(rows[:5]))},
        "seed": {"seed": 1},
        "batch_size": {"batch_size": 3},
        "rows_per_video": {"rows_per_video": 2},
        "tokens_per_batch": {"tokens_per_batch": 500},
        "world_multiple": {"world_multiple": 2},
        "weights": {"weights": (0.5,), "origins": np.zeros(7, int)},
    }
    for name, change in changes.items():
        with pytest.raises(ValueError, match=f"checkpoint's {name}"):
            make(**change).load_state_dict(state)


def test_ranks_share_out_the_batches_of_one_process(make):
    whole = ids(make(batch_size=1))
    ranks = [ids(make(batch_size=1, rank=rank, world=3)) for rank in range(3)]
    assert [len(rank) for rank in ranks] == [2, 2, 2]
    assert [ranks[i % 3][i // 3] for i in range(6)] == whole[:6]
    loader = make(batch_size=1, rank=1, world=3)
    next(iter(loader))
    assert loader.cursor == 3


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, clips):
    """Sample s1 changed after it was packed: its crc32 differs."""
    folder = write_shards(tmp_path_factory.mktemp("damaged") / "shards", clips[:3])
    manifest = Manifest.load(folder)
    sample = manifest.by_key["s1"]
    with (folder / sample.shard).open("r+b") as file:
        file.seek(sample.members["mp4"][0] + 500)
        file.write(b"\xff\x00\xff")
    return folder


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_quarantined_once_and_its_batch_loses_it(make, damaged, tmp_path, workers):
    loader = make(folder=damaged, overlay=None, batch_size=3, quarantine=tmp_path, num_workers=workers, shuffle=False)
    assert [ids(loader), ids(loader)] == [[["s0", "s2"]], [["s0", "s2"]]]
    assert loader.num_quarantined == 1
    line = read_quarantine(tmp_path)
    assert [(entry["shard"], entry["key"]) for entry in line] == [("shard-000000.tar", "s1")]
    assert "crc32" in line[0]["reason"]


def test_only_an_empty_training_batch_takes_the_spare_that_the_plan_names(make, damaged, caplog):
    loader = make(folder=damaged, overlay=None, batch_size=1, shuffle=False)
    spare = next(row for row in loader.plan.spares(0, 1) if row != 1)
    assert ids(loader) == [["s0"], [f"s{spare}"], ["s2"]]
    assert f"spare s{spare}" in caplog.text
    evaluation = make(folder=damaged, overlay=None, batch_size=1, shuffle=False, evaluation=True)
    assert ids(evaluation) == [["s0"], ["s2"]] == ids(evaluation)


@pytest.fixture(scope="module")
def broken(tmp_path_factory, clips):
    """Six samples of which s1 to s4 changed after they were packed."""
    folder = write_shards(tmp_path_factory.mktemp("broken") / "shards", clips)
    manifest = Manifest.load(folder)
    for key in ("s1", "s2", "s3", "s4"):
        sample = manifest.by_key[key]
        with (folder / sample.shard).open("r+b") as file:
            file.seek(sample.members["mp4"][0] + 500)
            file.write(b"\xff\x00\xff")
    return folder


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("evaluation", [False, True])
def test_too_many_bad_samples_stop_the_run(make, broken, workers, evaluation):
    options = {"folder": broken, "overlay": None, "shuffle": False, "num_workers": workers, "evaluation": evaluation}
    whole = {"batch_size": 3, "world_multiple": 1, **options}
    assert ids(make(max_bad_in_a_row=4, max_bad_fraction=4 / 6, **whole)) == [["s0"], ["s5"]]
    with pytest.raises(BadSample, match=r"4 samples in a row cannot be used, more than max_bad_in_a_row allows.*crc32"):
        ids(make(max_bad_in_a_row=3, **whole))
    with pytest.raises(BadSample, match=r"4 samples of this epoch cannot be used, more than max_bad_fraction allows"):
        ids(make(max_bad_fraction=0.5, **whole))


def test_an_epoch_counts_its_bad_samples_anew(make, damaged):
    loader = make(folder=damaged, overlay=None, batch_size=3, max_bad_fraction=0.4, max_bad_in_a_row=1)
    assert [len(batch["records"]) for _ in range(3) for batch in loader] == [2, 2, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_raise_stops_with_shard_key_and_reason(make, damaged, workers):
    loader = make(folder=damaged, overlay=None, on_bad_sample="raise", num_workers=workers)
    with pytest.raises(BadSample, match=r"shard-000000.tar, sample s1: .*crc32"):
        list(loader)


def test_records_that_make_no_row_are_quarantined(make, shards, llava):
    pairs = [
        {"key": "s0", "id": "same", "chosen": "a cat ", "rejected": "a cat"},
        {"key": "s1", "id": "empty", "chosen": " ", "rejected": "a cat"},
        {"key": "s2", "id": "token", "chosen": f"see {llava.video_token}", "rejected": "a cat"},
        {"key": "s3", "id": "window", "chosen": "a dog", "rejected": "a cat", "media": {"start_s": 99.0}},
        {"key": "s4", "id": "order", "chosen": "a dog", "rejected": "a cat", "media": {"frame_order": [0, 1]}},
        {"key": "s5", "id": "good", "chosen": "a dog", "rejected": "a cat", "media": {"frame_order": [3, 2, 1, 0]}},
    ]
    loader = make(overlay=Overlay(tuple(pairs)), collator=Collator(llava, "preference"), batch_size=6)
    assert ids(loader) == [["good"]]
    assert {line["id"]: line["reason"].split(" ")[0] for line in loader.quarantine.added} == {
        "same": "chosen",
        "empty": "empty",
        "token": "a",
        "window": "the",
        "order": "frame_order",
    }


def test_an_evaluation_loader_starts_anew_however_far_it_came(make):
    loader = make(evaluation=True, shuffle=False)
    next(iter(loader))
    assert ids(loader) == [["r0", "r1"], ["r2", "r3"], ["r4", "r5"], ["r6"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"num_frames": 0}, "num_frames must be >= 1"),
        ({"on_bad_sample": "skip"}, "'quarantine' or 'raise'"),
        ({"rank": 2, "world": 2}, "rank must lie in"),
        ({"world": 5}, "do not give 5 ranks"),
        ({"max_bad_in_a_row": 0}, "max_bad_in_a_row must be >= 1"),
        ({"max_bad_fraction": 2.0}, "max_bad_fraction must lie in"),
    ],
)
def test_wrong_numbers_are_refused_at_construction(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_samples_json_that_is_no_record_is_quarantined_and_the_run_goes_on(make, tmp_path, clips):
    good = {"prompt": "What?", "ground_truth": "a cat"}
    folder = write_shards(tmp_path / "a", clips[:3], [[good], {**good, "meta": {"options": 3}}, good])
    loader = make(folder=folder, overlay=None, batch_size=3)
    assert ids(loader) == [["s2"]]
    assert sorted(line["key"] for line in loader.quarantine.added) == ["s0", "s1"]


def test_a_batch_decodes_what_its_rows_see_alike_once(make, monkeypatch):
    decoded = []
    read = ClipReader.clip
    monkeypatch.setattr(ClipReader, "clip", lambda *args: decoded.append(args[2]["id"]) or read(*args))
    rows = [{"key": "s0", "id": f"a{n}"} for n in range(3)] + [{"key": "s0", "id": "b", "media": {"end_s": 1.0}}]
    (batch,) = list(make(overlay=Overlay(tuple(rows)), batch_size=4, rows_per_video=4))
    assert len(decoded) == 2 and "b" in decoded  # the clip, and its first second
    views = dict(zip([record["id"] for record in batch["records"]], batch["video_index"].tolist(), strict=True))
    assert views["a0"] == views["a1"] == views["a2"] != views["b"]


def test_a_batch_decodes_each_distinct_view_once_and_quarantines_too_few_negatives(make, llava, monkeypatch):
    decoded = []
    read = ClipReader.clip
    monkeypatch.setattr(ClipReader, "clip", lambda *args: decoded.append(args[2]["media"]) or read(*args))
    back = {"frame_order": [3, 2, 1, 0]}
    pair = {"key": "s0", "chosen": "a cat", "rejected": "a dog"}
    rows = [
        {**pair, "id": "a", "negatives": [{"text": "a cat", "media": back}]},
        {**pair, "id": "b", "negatives": [{"text": "a bird"}]},
        {**pair, "id": "few"},
        {**pair, "id": "short", "negatives": [{"text": "a cat", "media": {"frame_order": [0]}}]},
        {**pair, "id": "c", "media": {"end_s": 1.0}, "negatives": [{"text": "a cat", "media": {"end_s": None}}]},
    ]
    loader = make(
        overlay=Overlay(tuple(rows)),
        collator=Collator(llava, "preference", num_negatives=2),
        batch_size=5,
        shuffle=False,
    )
    (batch,) = list(loader)
    assert ids([batch]) == [["a", "b", "c"]]
    assert decoded == [{}, back, {"frame_order": [0]}, {"end_s": 1.0}]
    assert batch["video_index"].tolist() == [0, 0, 1, 0, 0, 1, 2, 0, 0]
    frames = batch["media"]["pixel_values_videos"]
    assert len(frames) == 3 and torch.equal(frames[2], frames[0].flip(0))
    reasons = {line["id"]: line["reason"] for line in loader.quarantine.added}
    assert set(reasons) == {"few", "short"} and "1 rejected responses" in reasons["few"]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_batch_of_a_step_carries_what_the_step_holds(make, llava, workers):
    """Twelve texts of 2, 3, ... words: steps of 2 batches on 2 ranks hold 8 of them, the epoch's last one 4."""
    rows = [{"key": f"s{n % 6}", "id": f"r{n}", "ground_truth": "a" + " a" * n, "weight": 1 + n % 2} for n in range(12)]
    rows[9] |= {"ground_truth": " "}  # a text that cannot be used counts for nothing
    options = {"overlay": Overlay(tuple(rows)), "world": 2, "accumulate": 2, "num_workers": workers, "shuffle": False}
    options |= {"world_multiple": 1}
    ranks = [list(make(rank=rank, **options)) for rank in range(2)]
    assert [len(rank) for rank in ranks] == [3, 3]
    for step, members in enumerate((range(8), (8, 10, 11))):
        tokens = [len(llava.tokenizer(rows[n]["ground_truth"]).input_ids) + 1 for n in members]
        weights = [rows[n]["weight"] for n in members]
        expected = (sum(weights) / 4, sum(t * w for t, w in zip(tokens, weights, strict=True)) / 4)
        for rank in ranks:
            for batch in rank[2 * step : 2 * step + 2]:
                assert batch["window"] == {"ground_truth": pytest.approx(expected)}
    sums = [(batch["labels"] != -100).sum(1) @ batch["weight"].long() for rank in ranks for batch in rank[:2]]
    assert sum(sums) / 4 == ranks[0][0]["window"]["ground_truth"].token


def test_what_a_step_holds_is_known_without_reading_what_the_overlay_says(make, llava, monkeypatch):
    """A step of many ranks has many records: those whose texts the overlay holds cost no read of their sample."""
    rows = [{"key": f"s{n % 6}", "id": f"r{n}", "ground_truth": "a cat"} for n in range(12)]
    rows[3].pop("ground_truth")  # its sample's own
    read = []
    record = RecordReader.record
    monkeypatch.setattr(RecordReader, "record", lambda self, row: read.append(row) or record(self, row))
    loader = make(overlay=Overlay(tuple(rows)), accumulate=3, shuffle=False, world_multiple=1)
    batches = list(loader)
    assert sorted(read) == sorted([*range(12), 3])
    assert [batch["window"]["ground_truth"].sample for batch in batches] == [2.0] * 6


def test_a_spare_weighs_as_much_as_the_sample_that_it_stands_for(make, damaged, llava):
    """Its mean over tokens takes the share that was planned for the lost text, however much longer its own is."""
    rows = [{"key": f"s{n}", "id": f"r{n}", "ground_truth": "a" + " a" * (20 * n), "weight": 1 + n} for n in range(3)]
    length = [len(llava.tokenizer(row["ground_truth"]).input_ids) + 1 for row in rows]
    options = {"batch_size": 1, "shuffle": False, "accumulate": 3, "world_multiple": 1}
    loader = make(folder=damaged, overlay=Overlay(tuple(rows)), **options)
    batches = list(loader)
    spare = int(batches[1]["records"][0]["id"][1:])
    planned = sum((1 + n) * length[n] for n in range(3)) / 3
    assert [batch["window"]["ground_truth"].token for batch in (batches[0], batches[2])] == [planned] * 2
    tokens = (1 + spare) * length[spare]  # of the spare, each with a loss of 1, say
    assert tokens / batches[1]["window"]["ground_truth"].token == pytest.approx(2 * length[1] / planned)
    assert (1 + spare) / batches[1]["window"]["ground_truth"].sample == pytest.approx(2 / 2)
    rows[1]["weight"] = 0  # a lost sample without weight leaves a spare without weight
    batches = list(make(folder=damaged, overlay=Overlay(tuple(rows)), **options))
    assert batches[1]["window"]["ground_truth"] == (float("inf"), float("inf"))


def test_batches_of_evaluation_belong_to_no_step(make, llava):
    assert "window" not in next(iter(make(evaluation=True)))
    assert "window" not in next(iter(make(collator=Collator(llava, "prompt"))))
    with pytest.raises(ValueError, match="accumulate must be >= 1, got 0"):
        make(accumulate=0)


def test_batches_are_filled_up_to_a_number_of_tokens(make, llava):
    """A clip of 4 frames of 16 x 16 and texts; two clips fit, or one clip with all its rows."""
    rows = [{"key": f"s{n // 3}", "id": f"r{n}", "ground_truth": "a cat" + " a" * n} for n in range(12)]
    overlay = Overlay(tuple(rows))
    reader = RecordReader(make(overlay=overlay).reader.manifest, overlay)
    loader = make(overlay=overlay, tokens_per_batch=10**6, world_multiple=1)
    cost, (batch,) = loader.plan.lengths, list(loader)
    assert len(batch["records"]) == 12 and len(reader) == 12
    for record, ids_, mask in zip(batch["records"], batch["input_ids"], batch["attention_mask"], strict=True):
        row = int(record["id"][1:])
        assert cost.visual[row] == (ids_ == loader.collator.video_token_id).sum()
        template = int(mask.sum()) - cost.visual[row] - cost.text[row]
        assert 0 < template < 20  # what the chat template adds does not count
    one = int(cost.visual[0] + cost.text.max())
    assert all(len(batch["records"]) == 1 for batch in make(overlay=overlay, tokens_per_batch=one + 1))
    shared = make(overlay=overlay, tokens_per_batch=one + 2 * int(cost.text.max()), rows_per_video=3, world_multiple=1)
    sizes = [len(batch["records"]) for batch in shared]
    assert sum(sizes) == 12 and max(sizes) == 3


def test_lengths_are_kept_for_the_next_start(make, tmp_path, monkeypatch):
    options = {"tokens_per_batch": 200, "quarantine": tmp_path}
    first = make(**options)
    read = []
    record = RecordReader.record
    monkeypatch.setattr(RecordReader, "record", lambda self, row: read.append(row) or record(self, row))
    again = make(**options)
    assert read == [] and again.state_dict() == first.state_dict()
    make(**options | {"num_frames": 2})
    assert read == [*range(7)]  # other frames make other lengths


def test_lengths_are_not_kept_while_a_record_cannot_be_read(make, tmp_path, monkeypatch):
    options = {"tokens_per_batch": 200, "quarantine": tmp_path}
    whole = make(**options | {"quarantine": None}).plan.lengths

    def gone(self, row):
        raise BadSample("shard cannot be read")

    with monkeypatch.context() as patch:
        patch.setattr(RecordReader, "record", gone)
        assert make(**options).plan.lengths.text.tolist() == [1] * 7
    assert np.array_equal(make(**options).plan.lengths.text, whole.text)


def test_what_an_epoch_leaves_out_is_said(make, caplog):
    caplog.set_level("INFO")
    list(make(batch_size=1, world=3))
    assert "1 batches at its end stay unused, 3 ranks do not divide 7" in caplog.text
    rows = tuple({"key": f"s{n % 6}", "id": f"r{n}"} for n in range(9))
    assert len(make(overlay=Overlay(rows), batch_size=1)) == 8
    list(make(overlay=Overlay(rows), batch_size=1))
    assert "1 rows stand in no batch" in caplog.text


def test_other_ranks_go_on_where_one_stopped_and_keep_their_windows(make, llava):
    """One rank to an odd cursor, then two, the last step across the epoch's end; windows hold what steps hold."""
    rows = [{"key": f"s{n % 6}", "id": f"r{n}", "ground_truth": "a" + " a" * n} for n in range(16)]
    options = {"overlay": Overlay(tuple(rows)), "collator": Collator(llava, "instruction")}
    first = make(**options)
    expected = [ids(first), ids(first)]
    one = make(**options)
    batches = iter(one)
    taken = [next(batches) for _ in range(3)]
    ranks = []
    for rank in range(2):
        loader = make(rank=rank, world=2, **options)
        loader.load_state_dict(one.state_dict())
        assert len(loader) == 6
        ranks.append(list(loader))
        assert len(loader) == 4 and loader.cursor == 9
    together = [batch for step in zip(*ranks, strict=True) for batch in step]
    assert ids(taken) + ids(together) == [*expected[0], *expected[1][:1]]
    for step in zip(*ranks, strict=True):
        members = [record for batch in step for record in batch["records"]]
        tokens = sum(len(llava.tokenizer(record["ground_truth"]).input_ids) + 1 for record in members)
        for batch in step:
            assert batch["window"]["ground_truth"] == pytest.approx((len(members) / 2, tokens / 2))
