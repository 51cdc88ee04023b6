"""Faults of the disk: it fills during a save, or checkpoints on it are damaged. And devices that come and go."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from experiments.robustness.faults import Row, finish, said_of, straight
from experiments.robustness.pairs import apart
from experiments.robustness.processes import EVERY, Training, differences

SMALL, LARGE = "16m", "64m"  # a checkpoint of the tiny config takes 6.5 MB; during a save there are three


def full_disk_rows(out: Path, steps: int = 4 * EVERY) -> list[Row]:
    """A run on a tmpfs with room for two checkpoints but not three. Needs the right to mount."""
    from vacsr_jax.training.checksums import find_damage

    disk = out / "disk"
    disk.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL}", "tmpfs", disk], check=True)
    try:
        training = Training(disk / "run", out / "compiled", fields={"train.steps": steps}, log=out / "disk.log")
        status, said, kept = training.end(), training.last_line(), training.last_checkpoint()
        whole = find_damage(disk / "run/checkpoints" / f"{kept}") is None
        subprocess.run(["mount", "-o", f"remount,size={LARGE}", disk], check=True)
        finish(disk / "run", out, steps)
        differ = differences(straight(out, steps), disk / "run")
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)
    happened = f"`{said}`, status {status}; with room the same command resumed; {said_of(differ)}"
    lost = f"the steps since checkpoint {kept}, which is {'whole' if whole else 'DAMAGED'}"
    return [Row("the disk fills during a save", happened, lost, status == 2 and whole and not differ)]


def flip_bit(folder: Path) -> None:
    file = largest(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(folder: Path) -> None:
    file = largest(folder)
    file.write_bytes(file.read_bytes()[:1000])


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


DAMAGE = {
    "a bit of an array is flipped": flip_bit,
    "a file of an array is cut": cut,
    "a file of an array is deleted": lambda folder: largest(folder).unlink(),
    "the description is broken JSON": lambda folder: (folder / "run/metadata").write_text('{"config":'),
}


def damage_rows(out: Path, steps: int = 4 * EVERY) -> list[Row]:
    """Damages the newest checkpoint of a stopped run, then resumes the run."""
    rows = []
    for number, (name, damage) in enumerate(DAMAGE.items()):
        workdir = out / f"damaged-{number}"
        training = Training(workdir, out / "compiled", fields={"train.steps": steps})
        training.wait_for(lambda training=training: training.last_checkpoint() > EVERY)
        training.kill()
        last = training.last_checkpoint()
        damage(workdir / "checkpoints" / f"{last}")
        printed = finish(workdir, out, steps)
        warned = next((line for line in printed.splitlines() if "is damaged" in line), "NO WARNING")
        differ = differences(straight(out, steps), workdir)
        happened = f"`{warned.partition('checkpoints: ')[2]}`; {said_of(differ)}"
        rows.append(Row(f"newest checkpoint: {name}", happened, f"{EVERY} steps", "step" in warned and not differ))
    return rows


TOPOLOGIES = ((8, False), (1, False), (4, True), (8, True), (2, False), (8, False))


def topology_rows(out: Path, steps: int = 8 * EVERY) -> list[Row]:
    """One run that changes at each stop: the devices, and whether parameters are copied or split."""
    workdir = out / "topologies"
    for devices, sharded in TOPOLOGIES[:-1]:
        fields = {"train.steps": steps, "train.shard_params": sharded}
        training = Training(workdir, out / "compiled", fields=fields, devices=devices)
        training.wait_for(training.steps)
        training.send(signal.SIGTERM)
        if training.end() != 128 + signal.SIGTERM:
            raise RuntimeError(training.printed())
    finish(workdir, out, steps)
    off = apart(straight(out, steps), workdir)
    moves = " → ".join(f"{devices}{' split' if sharded else ''}" for devices, sharded in TOPOLOGIES)
    happened = f"restored each time; losses are those of one device within {off:.0e}"
    return [Row(f"stopped and moved to other devices: {moves}", happened, "nothing", off < 1e-4)]
