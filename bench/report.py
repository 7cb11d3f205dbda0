"""Medians, ratios and targets out of the measurements, as JSON and as Markdown."""

import json
from statistics import median

MIB = 1 << 20
# Differences below this say nothing.
NOISE_S = 0.05


def figure(results, name, what, key):
    """The median over the rounds, or None."""
    rounds = results["measurements"].get(name, {}).get(what, [])
    values = [r[key] for r in rounds if key in r]
    return median(values) if values else None


def targets(results):
    """Each promise as (what, value, limit, unit, note); the value is None where something was not measured."""
    wall = lambda name, what: figure(results, name, what, "wall_s")
    stored = lambda name, what: figure(results, name, what, "stored_bytes")

    def ratio(a, b):
        return a / b if a is not None and b else None

    def synced(name, what):
        """With what it left to the file system to write later."""
        later = figure(results, name, what, "sync_s")
        return None if later is None else wall(name, what) + later

    def difference(more, less):
        more, less = wall(us, more), wall(us, less)
        return None if more is None or less is None else more - less

    def milliseconds(key):
        value = figure(results, us, "vm_freeze", key)
        return None if value is None else value / 1000

    us = "strongroom"
    changed = results["changed_bytes"]
    peaks = [figure(results, us, what, "peak_mib") for what in results["measurements"].get(us, {})]
    return [
        ("full backup, against `zstd -1 -T2` of the allocated bytes", ratio(wall(us, "full"), wall("zstd", "full")), 0.8, "×"),
        ("full backup, against restic", ratio(wall(us, "full"), wall("restic", "full")), 1 / 2.5, "×"),
        ("full backup, against borg", ratio(wall(us, "full"), wall("borg", "full")), 1 / 2, "×"),
        ("stored by the full backup, against restic", ratio(stored(us, "full"), stored("restic", "full")), 1.1, "×"),
        ("1 % changed, extents given, against `zstd -1` of those bytes",
         ratio(wall(us, "changed"), wall("zstd", "changed")), 1.25, "×"),
        ("the same, against `zstd -1` and a sync", ratio(wall(us, "changed"), synced("zstd", "changed")), 1.25, "×"),
        ("stored for 1 % changed, against the changed bytes", ratio(stored(us, "changed"), changed), 1.5, "×"),
        ("no change on a sparse disk of 1 TiB", wall(us, "sparse_1tib_no_change"), 0.2, "s"),
        ("no change on 10 TiB, longer than on 1 TiB by", difference("sparse_10tib_no_change", "sparse_1tib_no_change"),
         NOISE_S, "s"),
        ("unchanged, read and hashed, against restic `--force`",
         ratio(wall(us, "unchanged"), wall("restic", "unchanged")), 1 / 5, "×"),
        ("restore to a raw file without waiting for the disk, against `qemu-img convert`, which doesn't wait",
         ratio(wall(us, "restore_no_sync"), wall("qemu-img", "restore")), 1.3, "×"),
        ("the same with the file on the disk, against `qemu-img convert` and a sync",
         ratio(wall(us, "restore"), synced("qemu-img", "restore")), 1.3, "×"),
        ("first MiB over NBD from a cold start", wall(us, "first_mib_nbd"), 0.2, "s"),
        ("guest frozen, on storage that clones files", milliseconds("frozen_ms"), 0.1, "s"),
        ("a new machine from the vault, against `qemu-img convert` of its disk and a sync",
         ratio(wall(us, "vm_restore"), synced("qemu-img", "vm_convert")), 1.3, "×"),
        ("a machine started from the vault at once, until its agent answers, against its original disks",
         ratio(wall(us, "boot_instant"), wall(us, "boot_original")), 1.5, "×"),
        ("a sparse disk of 100 GiB replaced by its snapshot's, on storage that clones files, 1 GiB changed",
         wall(us, "replaced_by_snapshot"), 1.0, "s"),
        ("fio in the guest loses during a backup", figure(results, us, "vm_fio", "loss"), 0.1, "×"),
        ("most memory in any of them", max((p for p in peaks if p is not None), default=None), 300, "MiB"),
    ]


def number(value, unit):
    if value is None:
        return "–"
    if unit == "MiB":
        return f"{value:.0f} MiB"
    return f"{value:.2f} {unit}" if value < 10 else f"{value:.1f} {unit}"


LABELS = {
    "full": "full",
    "changed": "1 % changed",
    "changed_2_threads": "1 % changed, 2 threads",
    "unchanged": "unchanged, read again",
    "restore": "restore",
    "restore_no_sync": "restore, not waiting for the disk",
    "restore_changed": "restore of the changed image",
    "first_mib_nbd": "first MiB over NBD",
    "first_mib_nbd_no_cache": "first MiB over NBD, index cache removed",
    "sparse_1tib_full": "sparse 1 TiB, full",
    "sparse_1tib_no_change": "sparse 1 TiB, no change",
    "sparse_10tib_full": "sparse 10 TiB, full",
    "sparse_10tib_no_change": "sparse 10 TiB, no change",
    "vm_full": "machine, full",
    "vm_changed": "machine, 1 % changed",
    "vm_no_change": "machine, no change",
    "vm_freeze": "machine with a mounted file system",
    "vm_restore": "machine, restored as a new one",
    "vm_convert": "machine's disk copied by `qemu-img convert`",
    "vm_scripts": "machine with a mounted file system and scripts",
    "vm_four_tib_full": "machine with four sparse disks of 1 TiB, full",
    "vm_four_tib": "machine with four sparse disks of 1 TiB, no change",
    "boot_original": "Debian guest, start to agent, original disks",
    "boot_instant": "Debian guest, restore to agent, from the vault at once",
    "boot_instant_moved_in": "the same, from there until all is moved in",
    "replaced_by_snapshot": "machine off, 100 GiB disk replaced by its snapshot's, what was there kept as a point",
    "vm_fio": "machine, full, beside fio in the guest",
    "reclaim_one_of_ten_5gib": "reclaim, 1 of 10 points forgotten, 5 GiB logical",
    "reclaim_three_of_ten_5gib": "reclaim, 3 more forgotten, 5 GiB logical",
    "reclaim_one_of_ten_50gib": "reclaim, 1 of 10 points forgotten, 50 GiB logical",
    "reclaim_three_of_ten_50gib": "reclaim, 3 more forgotten, 50 GiB logical",
}


def markdown(results):
    m, image = results["machine"], results["image"]
    lines = ["# Benchmark results", "",
             "Written by `make bench`; see `bench/run` for what is measured and how. Medians of "
             f"{results['rounds']} round{'s' if results['rounds'] != 1 else ''}.", ""]
    if results["quick"]:
        lines += ["**Quick run on a small image: for looking at, not for quoting.**", ""]
    lines += [
        f"- Machine: {m['cpu']}, {m['cores']} cores, {m['memory_gib']} GiB; {m['system']}, kernel {m['kernel']}, "
        f"{m['file_system']}",
        f"- Image: {image['size_bytes'] / MIB / 1024:.0f} GiB ext4, {image['allocated_bytes'] / MIB / 1024:.2f} GiB of it "
        f"in use (files of {len(image['packages'])} Debian packages, and random data), sha256 `{image['sha256'][:16]}…`",
        f"- Changed: {results['changed_bytes'] / MIB:.0f} MiB rewritten with random data in 64 KiB aligned pieces",
        "- Versions: " + ", ".join(f"{k} {v}" for k, v in sorted(results["versions"].items())),
        "- Sources are in the page cache for all. *sync* is what a sync of the file system took right after: "
        "Strongroom has synced before it ends, most others leave it to later.",
        "- *others* is the CPU time that everything else on the machine took meanwhile: where it is large, the wall time is "
        "not the contender's alone.", *(f"- {note}" for note in results.get("notes", [])), "",
        "## Targets", "", "| | measured | target | |", "|---|---|---|---|"]
    for what, value, limit, unit in targets(results):
        verdict = "" if value is None else "met" if value <= limit else "**missed**"
        lines.append(f"| {what} | {number(value, unit)} | ≤ {number(limit, unit)} | {verdict} |")
    lines += ["", "## Measurements", "",
              "| | | wall s | CPU s | peak MiB | stored or freed MiB | sync s | others CPU s |",
              "|---|---|---|---|---|---|---|---|"]
    for name, by_what in results["measurements"].items():
        for what in by_what:
            f = lambda key: figure(results, name, what, key)
            size = f("freed_bytes") if f("freed_bytes") is not None else f("stored_bytes")
            cells = [f"{f('wall_s'):.2f}", f"{f('cpu_s'):.2f}", f"{f('peak_mib'):.0f}",
                     "" if size is None else f"{size / MIB:.1f}",
                     "" if f("sync_s") is None else f"{f('sync_s'):.2f}",
                     "" if f("others_cpu_s") is None else f"{f('others_cpu_s'):.1f}"]
            lines.append(f"| {name} | {LABELS.get(what, what)} | " + " | ".join(cells) + " |")
    ours = results["measurements"].get("strongroom", {})
    kinds = (("vm_freeze", "without scripts"), ("vm_scripts", "with scripts that do nothing"),
             ("vm_four_tib", "four sparse disks of 1 TiB"))
    if any(what in ours for what, _ in kinds):
        lines += ["", "## The guest, on storage that clones files", ""]
        for what, label in kinds:
            for key, part in (("frozen_ms", "frozen"), ("suspended_ms", "suspended"), ("snapshot_ms", "snapshot in all")):
                values = sorted(f[key] for f in ours.get(what, []) if key in f)
                if values:
                    lines.append(f"- {label}, {part}: {', '.join(f'{v:.0f}' for v in values)} ms")
        without, with_them = (figure(results, "strongroom", what, "snapshot_ms") for what in ("vm_freeze", "vm_scripts"))
        if without is not None and with_them is not None:
            lines.append(f"- what running scripts adds to the snapshot: {with_them - without:.0f} ms")
        beside = lambda key: figure(results, "strongroom", "vm_fio", key)
        if beside("loss") is not None:
            lines.append(f"- fio (4 KiB random writes, one at a time): {beside('iops_alone'):.0f} a second alone, "
                         f"{beside('iops_beside'):.0f} during a backup that took {beside('wall_s'):.0f} s")
    return "\n".join(lines) + "\n"


def write(results, directory):
    """Both files, after every measurement, so that a broken-off run leaves what it has."""
    medians = {name: {what: {key: figure(results, name, what, key) for key in rounds[0] if isinstance(rounds[0][key], (int, float))}
                      for what, rounds in by_what.items()}
               for name, by_what in results["measurements"].items()}
    checks = [{"what": what, "value": value, "limit": limit, "unit": unit,
               "met": None if value is None else value <= limit} for what, value, limit, unit in targets(results)]
    text = json.dumps({**results, "medians": medians, "targets": checks}, indent=1) + "\n"
    (directory / "results.json").write_text(text)
    (directory / "results.md").write_text(markdown(results))
