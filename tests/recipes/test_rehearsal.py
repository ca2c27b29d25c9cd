"""`corestone rehearse`: a healthy recipe passes every stage, and each stage says so when something is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checked import ALONE, decoder, encoder, pictures, recipe
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from corestone.cli.main import app
from corestone.core.errors import CheckpointError, CorestoneError, DataError
from corestone.core.spec import plain
from corestone.interop import outgoing
from corestone.recipes.build import Built
from corestone.recipes.catalogue import PUBLISHED, RECIPES, SMALL
from corestone.recipes.checks import export_check
from corestone.recipes.checks.scale import STEPS
from corestone.recipes.load import open_data
from corestone.recipes.made_up import step_size
from corestone.recipes.rehearsal import training_stages, use_stages
from corestone.recipes.rehearsal.rehearse import STAGES, all_stages, open_setting, rehearse
from corestone.recipes.rehearsal.setting import Setting
from corestone.recipes.rehearsal.stand_in import COLOURED, TEXT, Instead
from corestone.recipes.rehearsal.toy import TOY, rehearsed
from corestone.recipes.sizes import layer_kinds, parameters_of
from corestone.report.write import write_report
from corestone.train.checkpoint import checkpoint_folder, newest_whole
from corestone.train.state import State

QUIET = Console(quiet=True)


def setting_of(folder: Path, name: str, assignments: tuple[str, ...] = ()):
    (folder / "scratch").mkdir()
    return open_setting(name, assignments, 2, folder / "out", folder / "scratch")[0]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A rehearsal of a tiny decoder with all that it left, and what came of its stages."""
    folder = tmp_path_factory.mktemp("healthy")
    setting = setting_of(
        folder, recipe(folder, decoder(0.0), micro_batch=3, average={"decay": 0.9}, precision="float32")
    )
    return setting, all_stages(setting, {"recipe": "tiny", "processes": 2, "scaled": ["8 <rows>"]}, QUIET)


def test_a_healthy_recipe_passes_every_stage(healthy):
    _, found = healthy
    assert {name: (one.verdict, one.reason) for name, (one, _) in found.items()} == dict.fromkeys(
        STAGES, ("passed", "")
    )
    assert "24 steps in 2 processes over gloo" in found["start"][0].ran
    assert "SIGKILL to 2 processes" in found["kill"][0].ran
    assert "in 1 process in place of 2" in found["resize"][0].ran


def test_what_came_of_it_stands_in_the_folder_and_in_its_report(healthy):
    setting, _ = healthy
    told = json.loads((setting.folder / "rehearsal.json").read_text())
    assert [one["name"] for one in told["stages"]] == [*STAGES][:-1]  # the last one's is kept behind it
    assert told["passed"]
    held = {one["name"]: one["difference"] for one in told["plan"]}
    assert held["Parameters"] == "+0.0%"
    assert held.keys() == {"Parameters", "Operations", "Peak memory"}  # times and loss of a toy say nothing
    assert held["Operations"] in ("+0.0%", "-0.0%")  # 5e-5 of a sign or the other
    page = write_report([setting.folder]).read_text()
    assert '<section id="rehearsal">' in page
    assert "8 &lt;rows&gt;" in page
    assert "SIGKILL to 2 processes" in page


def test_the_toy_keeps_what_the_recipe_is():
    whole = PUBLISHED["language/palm-540b"]()
    toy, told = rehearsed(whole, 3, [Instead({"kind": "embedded", "name": "shakespeare"}, "stands in")], "bfloat16")
    assert told[0] == "stands in"
    assert (toy.objective, toy.optimiser) == (whole.objective, whole.optimiser)
    assert type(toy.schedule) is type(whole.schedule)
    kept = ("recompute", "compile", "clip_norm", "anomaly", "average")
    assert all(getattr(toy.training, name) == getattr(whole.training, name) for name in kept)
    assert toy.model.stack.blocks[0].residual == "parallel"
    assert toy.model.stack.blocks[0].mixer.kv_heads == 1
    assert step_size(toy)[0] == 12  # four for each of three processes
    assert toy.training.micro_batch == 1
    assert str(toy.rhythm.sample) == "24 steps"  # five times as rare as checkpoints, and once at least


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_becomes_a_toy(name):
    """Of a million parameters at most, frozen ones among them; the largest has 967,643."""
    run = RECIPES[name]()
    text = run.data.kind == "text"
    count = len(run.data.components) if text else 1
    here = Instead(json.loads((TEXT if text else COLOURED).model_dump_json()), "", None)
    toy, _ = rehearsed(run, 2, [here] * count, "float32")
    assert parameters_of(toy.model) <= TOY
    assert len(layer_kinds(plain(toy.model))) == len(layer_kinds(plain(run.model)))
    assert toy.model.model_dump()["kind"] == run.model.model_dump()["kind"]


# -- defects ------------------------------------------------------------------------------------------------------

UNSAVED = """
from corestone.core.errors import CheckpointError
from corestone.recipes import build
def refuse(folder, tensors, texts):
    raise CheckpointError(f"{folder}: the checkpoint could not be written (the disk is full)")
build.write_checkpoint = refuse
"""

FORGETFUL = """
from corestone.recipes import build
build.load_optimiser_tensors = lambda optimiser, tensors: None
"""

AFRESH = """
from corestone.recipes import pretrain
pretrain.newest_whole = lambda folder: (None, [])
pretrain.checkpoints = lambda folder: []
"""

OTHER_ROWS = """
from corestone.data.loader import TextLoader
_batch = TextLoader.batch
def other(self, step):
    return _batch(self, step + (self._rows == slice(0, self._run[3])))
TextLoader.batch = other
"""


def test_a_run_that_cannot_be_saved_fails_and_ends_with_exit_code_1(tmp_path, monkeypatch):
    monkeypatch.setattr("corestone.recipes.build.write_checkpoint", lambda *given: None)  # put back what is changed
    path = recipe(tmp_path, decoder(), UNSAVED)
    done = CliRunner().invoke(app, ["rehearse", path, "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    verdicts = {one["name"]: (one["verdict"], one["reason"]) for one in told["stages"]}
    assert not told["passed"]
    assert verdicts["prepare"][0] == verdicts["plan"][0] == "passed"
    assert verdicts["start"][0] == "failed"
    assert "the checkpoint could not be written (the disk is full)" in verdicts["start"][1]
    assert verdicts["checkpoint"] == verdicts["kill"] == ("skipped", "needs start, which failed")
    assert json.loads((tmp_path / "out" / "rehearsal.json").read_text())["passed"] is False
    assert "needs start, which failed" in (tmp_path / "out" / "report.html").read_text()


def others_start(monkeypatch, *scripts: str) -> None:
    """Let other processes train in the place of a rehearsal's."""

    def start(self, folder, processes, alike=False):
        with (self.folder / "processes.log").open("ab") as said:
            return [subprocess.Popen(["sh", "-c", script], stderr=said) for script in scripts]

    monkeypatch.setattr(Setting, "start", start)


def test_kills_that_all_come_too_late_have_failed(healthy, tmp_path, monkeypatch):
    """One process of two is done each time before the kill, which the other sees: neither is a fault of a process."""
    others_start(monkeypatch, "exit 0", "exec sleep 60")
    found = training_stages.kill(replace(healthy[0], folder=tmp_path))
    assert found.verdict == "failed"
    assert "over before each kill" in found.reason


def test_what_failed_before_a_kill_is_told_by_what_was_said_then(healthy, tmp_path, monkeypatch):
    (tmp_path / "processes.log").write_text("ValueError: of an earlier stage\n")
    others_start(monkeypatch, "echo 'RuntimeError: of this one' >&2; exit 3", "exec sleep 60")
    with pytest.raises(CorestoneError, match=r"exit codes \[3, -9\]\): RuntimeError: of this one$"):
        training_stages.kill(replace(healthy[0], folder=tmp_path))


def killed_by(healthy, tmp_path: Path, plant: str):
    """A setting whose processes run a planted defect, and whose folder is that of the healthy run, killed."""
    setting, _ = healthy
    (tmp_path / "scratch").mkdir()
    (tmp_path / "recipe").mkdir()
    path = recipe(tmp_path / "recipe", decoder())
    source = Path(setting.recipe).read_text().replace("import json\n", f"import json\n{plant}\n", 1)
    Path(path).write_text(source)  # the same recipe to the letter, on the same texts
    folder = tmp_path / "out"
    setting.begin(folder, setting.run)
    (middle,) = setting.middle.iterdir()
    shutil.copytree(middle, folder / "checkpoints" / middle.name)
    log = (setting.folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    step = int(middle.name.split("-")[1])
    (folder / "metrics.jsonl").write_text("".join(line for line in log if json.loads(line)["step"] <= step))
    shutil.copy(setting.folder / "environment.json", folder)
    shutil.copytree(setting.whole, tmp_path / "scratch" / "whole")
    return replace(setting, recipe=path, folder=folder, scratch=tmp_path / "scratch")


def test_a_torn_checkpoint_is_found_where_it_is_written_and_where_it_is_read(healthy, tmp_path):
    setting = killed_by(healthy, tmp_path, "")
    for folder in (setting.whole, setting.folder):
        newest, _ = newest_whole(folder)
        with (newest / "model.safetensors").open("r+b") as file:
            file.truncate(1000)
    assert "has 1000 of" in training_stages.checkpoint(setting).reason
    assert "has 1000 of" in training_stages.resume(setting).reason


@pytest.mark.parametrize(
    ("plant", "said"), [(FORGETFUL, "ends elsewhere"), (AFRESH, "began anew")], ids=["forgetful", "afresh"]
)
def test_a_resume_that_is_none(healthy, tmp_path, plant, said):
    found = training_stages.resume(killed_by(healthy, tmp_path, plant))
    assert found.verdict == "failed"
    assert said in found.reason


def test_one_process_that_reads_other_rows_than_two(healthy, tmp_path):
    setting = killed_by(healthy, tmp_path, OTHER_ROWS)
    (middle,) = (setting.folder / "checkpoints").iterdir()
    shutil.copytree(middle, setting.middle / middle.name)
    found = training_stages.resize(setting)
    assert found.verdict == "failed"
    assert found.reason.startswith("losses and gradient norms of")


def test_an_export_that_lies_is_refused(healthy, monkeypatch):
    setting, _ = healthy
    given = outgoing.to_theirs

    def other(*arguments):
        tensors = given(*arguments)
        return {name: tensor + 1e-3 for name, tensor in tensors.items()}

    monkeypatch.setattr(outgoing, "to_theirs", other)
    found = use_stages.export(replace(setting, scratch=setting.scratch / "lies"))
    assert found.verdict == "failed"
    assert "refused" in found.reason


def test_an_import_that_gives_other_tensors(healthy, tmp_path, monkeypatch):
    setting, _ = healthy
    given = export_check.read_tensors
    monkeypatch.setattr(
        export_check, "read_tensors", lambda path: {name: tensor * 1.01 for name, tensor in given(path).items()}
    )
    shutil.copytree(setting.scratch / "exported", tmp_path / "exported")
    found = use_stages.import_(replace(setting, scratch=tmp_path))
    assert found.verdict == "failed"
    assert "differs by" in found.reason


def test_an_import_that_loses_a_token(healthy, tmp_path, monkeypatch):
    """The checkpoint's table has more rows than its tokenizer has tokens, the imported one as many: one fewer is one
    too few."""
    setting, _ = healthy
    given = export_check.read_tensors

    def fewer(path):
        tensors = given(path)
        return tensors | {"embedding.token.weight": tensors["embedding.token.weight"][:-1]}

    monkeypatch.setattr(export_check, "read_tensors", fewer)
    shutil.copytree(setting.scratch / "exported", tmp_path / "exported")
    found = use_stages.import_(replace(setting, scratch=tmp_path))
    assert (found.verdict, found.reason) == ("failed", "embedding.token.weight differs by inf")


def test_two_towers_go_out_and_come_back(tmp_path, monkeypatch):
    """Their scale has no axis, and the folder's table a row more: of the token that ends a text."""
    monkeypatch.chdir(tmp_path)
    setting = setting_of(tmp_path, "clip-vit-b32", ("training.precision=float32",))
    built = Built(setting.run, open_data(setting.run, ALONE), ALONE, torch.float32)
    built.save(checkpoint_folder(setting.folder, STEPS), State(step=STEPS))
    assert use_stages.export(setting).verdict == "passed"
    assert use_stages.import_(setting).shown == "all tensors equal bit for bit"


def test_a_ruined_model_fails_its_evaluation(healthy, monkeypatch):
    setting, _ = healthy
    monkeypatch.setattr(
        use_stages,
        "run_evaluation",
        lambda folder, console: [{"split": "validation", "floors": [], "model": [{"name": "nats", "value": None}]}],
    )
    assert use_stages.evaluate(setting).reason == "not finite: nats"


def test_a_report_of_what_cannot_be_read(healthy, tmp_path):
    setting, _ = healthy
    shutil.copytree(setting.folder, tmp_path / "out")
    (tmp_path / "out" / "evaluation.json").write_text("{")
    assert "evaluation.json: not valid JSON" in use_stages.report(replace(setting, folder=tmp_path / "out")).reason


# -- data ---------------------------------------------------------------------------------------------------------


def test_a_folder_of_something_else_is_refused_and_a_rehearsal_is_replaced(tmp_path):
    path = recipe(tmp_path, decoder())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="neither empty nor a rehearsal's"):
        rehearse(path, [], 2, tmp_path / "out", QUIET)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_what_is_missing_is_stood_in_for_and_what_is_broken_is_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    setting = setting_of(tmp_path, "opt-125m")
    assert setting.run.data.components[0].source == TEXT
    assert "stands in for corpus/, which is not here" in setting.instead[0].told
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "bad.txt").write_bytes(b"\xff\xfe\xfd" * 100)
    shutil.rmtree(tmp_path / "scratch")
    broken = setting_of(tmp_path, "opt-125m")
    assert broken.instead == (None,)
    with pytest.raises(DataError, match="UTF-8"):
        training_stages.prepare(broken)


def test_of_a_large_text_the_beginning_is_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("corestone.recipes.rehearsal.stand_in.TEXT_BYTES", 50_000)
    monkeypatch.setattr("corestone.recipes.rehearsal.beginning.TEXT_BYTES", 50_000)
    monkeypatch.setattr("corestone.recipes.rehearsal.beginning.PIECE_CHARACTERS", 1_000)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "book.txt").write_text("\n".join(f"line {number} of a long book" for number in range(9000)))
    for name in ("a.txt", "b.txt"):
        (tmp_path / "corpus" / name).write_bytes(b"\xff\xfe\xfd" * 100)
    setting = setting_of(tmp_path, "opt-125m", ("data.prepare.on_bad=skip",))
    assert "the first 50 kB of corpus/ (left out: 2 x invalid UTF-8), as text-0.jsonl" in setting.instead[0].told
    assert training_stages.prepare(setting).verdict == "passed"


def test_of_many_pictures_the_first_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("corestone.recipes.rehearsal.beginning.PICTURES", 150)
    for number in range(200):
        place = tmp_path / "imagenet" / "train" / f"class-{number % 4}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 80), (number, 255 - number, 7)).save(place / f"{number}.png")
    (tmp_path / "imagenet" / "train" / "class-0" / "notes.txt").write_text("no picture")
    (tmp_path / "imagenet" / "train" / "class-3" / "late.txt").write_text("behind the last one that is read")
    setting = setting_of(tmp_path, "vit-b16")
    assert "the first 150 pictures of imagenet (left out: 1 x file type not read (.txt))" in setting.instead[0].told
    assert setting.run.model.head.classes == 3  # of the fourth none is among the first
    assert training_stages.prepare(setting).verdict == "passed"
    assert "pictures, 3 classes, 64 x 64 x 3" in training_stages.prepare(setting).shown


# -- whole lives ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 3])
def test_other_numbers_of_processes(tmp_path, processes):
    told = rehearse(recipe(tmp_path, encoder()), [], processes, tmp_path / "out", QUIET)
    assert told["passed"], told["stages"]


@pytest.mark.slow
def test_pictures(tmp_path):
    told = rehearse("mnist-vit", pictures(), 2, tmp_path / "out", QUIET)
    assert told["passed"], told["stages"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL, *PUBLISHED])
def test_every_recipe_is_rehearsed(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    told = rehearse(name.rsplit("/", 1)[-1], [], 2, tmp_path / "out", QUIET)
    assert told["passed"], told["stages"]
