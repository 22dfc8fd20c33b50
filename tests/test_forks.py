"""Detectors in other processes and threads: forked, spawned, pickled and copied.

Each script runs in its own process with a timeout.
"""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import texture
from offnominal import Detector, machine

TESTS = Path(__file__).parent
PRELUDE = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import multiprocessing
from conftest import texture
from offnominal import Detector, load

def score(number):
    return detector.inspect(texture(number)).score

def fresh(number):
    return load(sys.argv[1]).inspect(texture(number)).score

def fitted(number):
    return len(Detector(image_size=96, bank=50).fit([texture(seed) for seed in range(26)]).model.members[0].bank.patches)

def many(number):
    images = [texture(seed) for seed in range(26)]
    return len(list(detector.inspect_many(images, failed=print, evidence=True, maps=True)))

def chosen(number):
    from offnominal.memory import greedy_kcenter
    import numpy as np
    return greedy_kcenter(np.random.default_rng(number).normal(size=(20_000, 64)).astype("f4"), 50)[:5].tolist()

def pool(work, kind="fork"):
    with multiprocessing.get_context(kind).Pool(2) as workers:
        return workers.map_async(work, range(3)).get(timeout=100)

def close(a, b):
    return all(abs(x - y) < 1e-3 * max(1, abs(x)) for x, y in zip(a, b, strict=True))

if __name__ == "__main__":
"""
WARM_UP = (
    "detector = load(sys.argv[1]); [*detector.inspect_many([texture(9)] * 30, failed=print)]; before = [*map(score, range(3))]"
)


def run_script(script: str, tmp_path: Path, model: Path) -> None:
    """Run `PRELUDE` and a script in a new process. A process that hangs fails the test."""
    file = tmp_path / "script.py"
    file.write_text(PRELUDE + "".join(f"    {line}\n" for line in script.splitlines()))
    done = subprocess.run([sys.executable, str(file), str(model)], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")


@needs_fork
@pytest.mark.parametrize(
    "script",
    [
        f"{WARM_UP}\nassert close(before, pool(score))\nassert close(before, pool(fresh))\nassert pool(many) == [26] * 3",
        f"{WARM_UP}\nassert pool(fitted) == [50] * 3",
        "detector = load(sys.argv[1])\nscores = pool(score)\nassert close([*map(score, range(3))], scores)",
        "before = fitted(0)\nassert pool(fresh) and pool(fitted) == [before] * 3",
        "before = [*map(chosen, range(3))]\nassert pool(chosen) == before",
        "scores = pool(fresh)\nassert close(scores, [*map(fresh, range(3))])",
    ],
    ids=["inspected", "fitted in workers", "loaded", "fitted", "coreset", "imported"],
)
def test_forked_workers_return_the_same_results(script: str, tmp_path: Path, model_file: Path) -> None:
    run_script(script, tmp_path, model_file)


@needs_fork
@pytest.mark.parametrize("kind", ["fork", "spawn"])
def test_detectors_run_in_data_loader_workers(kind: str, tmp_path: Path, model_file: Path) -> None:
    (tmp_path / "data.py").write_text(
        f"import sys; sys.path.insert(0, {str(TESTS)!r})\nfrom conftest import texture\n"
        "class Parts:\n    def __init__(self, detector): self.detector = detector\n    def __len__(self): return 4\n"
        "    def __getitem__(self, at): return self.detector.inspect(texture(at)).score\n"
    )
    script = (
        f"{WARM_UP}\nfrom data import Parts\nfrom torch.utils.data import DataLoader\n"
        f"loader = DataLoader(Parts(detector), num_workers=2, batch_size=None, multiprocessing_context={kind!r}, timeout=150)\n"
        "assert close(before + [score(3)], [float(one) for one in loader])"
    )
    run_script(script, tmp_path, model_file)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_detectors_run_in_joblib_workers(backend: str, tmp_path: Path, model_file: Path) -> None:
    pytest.importorskip("joblib")
    script = (
        f"{WARM_UP}\nimport joblib\n"
        f"results = joblib.Parallel(2, backend={backend!r}, timeout=150)(\n"
        "    joblib.delayed(detector.inspect)(texture(at)) for at in range(3))\n"
        "assert close(before, [result.score for result in results])"
    )
    run_script(script, tmp_path, model_file)


def test_copies_inspect_save_and_update_like_the_original(detector: Detector, model_file: Path, tmp_path: Path) -> None:
    image = texture(55)
    expected = detector.inspect(image, evidence=True)
    for copied in (pickle.loads(pickle.dumps(detector)), copy.deepcopy(detector), copy.copy(detector)):
        copied.save(tmp_path / "copy.safetensors")
        assert (tmp_path / "copy.safetensors").read_bytes() == model_file.read_bytes()
        unpickled = pickle.loads(pickle.dumps(copied))  # pickled before its network is built
        assert unpickled.inspect(image, evidence=True).regions == expected.regions
    copied.update(remove=[copied.model.sources[0].name])
    assert len(copied.model.sources) == len(detector.model.sources) - 1
    assert copied.inspect(image).score != pytest.approx(0)
    weights = tmp_path / "weights.pt"
    torch.save({}, weights)
    unfitted = pickle.loads(pickle.dumps(Detector(image_size=96, weights=weights)))
    assert unfitted.settings.image_size == (96, 96)
    assert unfitted._weights == weights.absolute()


def test_kernels_state_why_a_slow_one_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Extension:
        def __init__(self, bits: int) -> None:
            self.bits = bits

        def multiplies(self, bits: int) -> bool:
            return bits == self.bits

    monkeypatch.setattr(machine, "_extension", lambda: Extension(512))
    assert machine.kernels()["search"] == machine.Kernel("int8 dot products (AVX-512 VNNI), candidate pruning")
    monkeypatch.setattr(machine, "_extension", lambda: Extension(0))
    assert "AVX-VNNI" in str(machine.kernels()["search"].reason)
    monkeypatch.setattr(machine, "_extension", lambda: None)
    assert "install a C compiler" in machine.kernel_lines(machine.kernels())[0]
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "pip install openvino" in str(machine.kernels()["network"].reason)
    assert machine.kernels("torch")["network"].name == "torch"
    assert machine.kernels("auto", "cuda")["search"].fast
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", Path("/proc/nowhere")):
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
        assert "cannot be written" in str(machine.kernels()["cache"].reason)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "new" / "cache"))
    assert machine.kernels()["cache"] == machine.Kernel(str(tmp_path / "new" / "cache" / "offnominal"))
    assert not (tmp_path / "new").exists()
    monkeypatch.delenv("XDG_CACHE_HOME")

    def without_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", without_home)
    assert "no home folder" in str(machine.kernels()["cache"].reason)


def test_kernels_are_reported_without_importing_torch() -> None:
    code = "import sys; from offnominal.machine import kernels; kernels(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert np.isscalar(machine.kernels()["search"].name)
