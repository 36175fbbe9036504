"""Our mount beside a plain folder, and rclone where it is installed: a part of scripts/bench.

What is far is compared with plain requests through the same line, what is here with a plain folder on
the same disk. In each round all sides do the same once, and take turns in who is first.
"""

import concurrent.futures
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import chart
from cold_reads import BIG, LOOK, MIB, READERS, ROOT, SEEKS, SERVER
from cold_reads import Bucket, Client, Mount, read_whole, timed

# What a user would give to have rclone read ahead and write behind; not its defaults.
RCLONE = """--vfs-cache-mode full --vfs-cache-max-size 40G --vfs-read-chunk-size 8M --vfs-read-chunk-streams 8
--buffer-size 16M --vfs-write-back 2s --transfers 8 --dir-cache-time 10m --attr-timeout 10s
--use-server-modtime --vfs-fast-fingerprint --no-checksum""".split()
SEGMENT = 8 * MIB
SMALL = os.urandom(64 << 10)
SAVES = 20
# Before each measurement so much of the processors' time is idle for so long; seconds.
IDLE, REST, LONGEST_REST = 0.85, 0.5, 30
README, CHART = ROOT / "README.md", ROOT / "docs/bench.svg"
BEGIN, END = "<!-- scripts/bench --only compare --write -->\n", "<!-- end -->\n"


class Rclone(Mount):
    """A mount by rclone of the same bucket."""

    def __init__(self, folder, bucket):
        super().__init__(folder, "rclone", bucket)
        self.bucket = bucket
        settings = {
            "PROVIDER": "Other", "ENDPOINT": bucket.endpoint, "FORCE_PATH_STYLE": "true",
            "ACCESS_KEY_ID": bucket.access_key, "SECRET_ACCESS_KEY": bucket.secret_key,
            "NO_CHECK_BUCKET": "true",
        }
        self.environment = {**os.environ, **{f"RCLONE_S3_{name}": settings[name] for name in settings}}

    def mount_command(self):
        """Returns what mounts and stays."""
        source = f":s3:{self.bucket.name}"
        place = [source, self.mountpoint, "--config", "", "--cache-dir", "cache"]
        return [self.binary, "mount", *place, *RCLONE]

    def unmount_command(self):
        """Returns what unmounts."""
        return ["fusermount3", "-u", self.mountpoint]


class Mounted:
    """A side that is mounted."""

    def __init__(self, mount):
        self.mount, self.folder = mount, mount.mountpoint / "projects"
        self.buffer = memoryview(bytearray(MIB))

    def look(self, number):
        """Opens a file and reads its first bytes."""
        with open(self.folder / f"big-{number}.wav", "rb", buffering=0) as file:
            assert len(file.read(LOOK)) == LOOK

    def seeks(self, number, places):
        """Reads at these places of a file."""
        with open(self.folder / f"big-{number}.wav", "rb", buffering=0) as file:
            assert all(len(os.pread(file.fileno(), LOOK, place)) == LOOK for place in places)

    def copy(self, number):
        """Reads a file in order."""
        assert read_whole(self.folder / f"big-{number}.wav", self.buffer) == BIG

    def below(self):
        """Returns the files that hold the bytes."""
        return [path for path in (self.mount.folder / "cache").rglob("*") if path.is_file()]


class Plain:
    """The reference: requests for what is far, a folder for what is here."""

    def __init__(self, folder, bucket):
        self.folder, self.client = pathlib.Path(folder), Client(bucket)
        self.pool = concurrent.futures.ThreadPoolExecutor(READERS)
        self.buffer = memoryview(bytearray(MIB))

    def look(self, number):
        """One request on a connection that is kept."""
        self.client.get(f"projects/big-{number}.wav", 0, LOOK, self.buffer)

    def seeks(self, number, places):
        """One request for each place."""
        for place in places:
            self.client.get(f"projects/big-{number}.wav", place, LOOK, self.buffer)

    def copy(self, number):
        """As many requests at once as a browser of buckets makes."""
        def part(offset):
            key = f"projects/big-{number}.wav"
            self.client.get(key, offset, SEGMENT, memoryview(bytearray(MIB)))

        list(self.pool.map(part, range(0, BIG, SEGMENT)))

    def below(self):
        """Returns the files that hold the bytes."""
        return []


def rclone_version():
    """Returns the name and version of what is installed."""
    return subprocess.run(["rclone", "version"], capture_output=True, text=True).stdout.splitlines()[0]


def drop_pages(side, path):
    """Drops the pages that the kernel holds of a file, and of those that hold its bytes."""
    for file in [path, *side.below()]:
        with open(file, "rb") as opened:
            os.fdatasync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rename(folder):
    """Renames a file that was just written; returns the seconds of the rename alone."""
    path = folder / "fresh.wav"
    path.write_bytes(SMALL)
    return timed(lambda: path.rename(folder / "renamed.wav"))


def save(folder):
    """Saves as programs do: a new file, synced, renamed over the old one."""
    with open(folder / "song.tmp", "wb") as file:
        file.write(SMALL)
        file.flush()
        os.fsync(file.fileno())
    os.rename(folder / "song.tmp", folder / "song.rpp")


def idle_share(seconds):
    """Returns how much of the processors' time was idle, watched for so long."""

    def times():
        values = [int(value) for value in open("/proc/stat", encoding="ascii").readline().split()[1:]]
        return values[3], sum(values)

    idle, whole = times()
    time.sleep(seconds)
    idle_then, whole_then = times()
    return (idle_then - idle) / max(whole_then - whole, 1)


def rest():
    """Waits until what the side before asked for ahead, or has to upload, is done; not for ever."""
    until = time.monotonic() + LONGEST_REST
    while idle_share(REST) < IDLE and time.monotonic() < until:
        pass


class Comparison:
    """The sides, and the rows of the table."""

    def __init__(self, sides, rounds):
        self.sides, self.rounds, self.rows = sides, rounds, []

    def row(self, name, unit, work, size=None):
        """Measures a row: `work` is given a side and the round, and returns seconds."""
        times = {side: [] for side in self.sides}
        for number in range(self.rounds):
            order = list(self.sides)
            for side in order[number % len(order):] + order[: number % len(order)]:
                rest()
                times[side].append(work(self.sides[side], number))
        reference = next(iter(times.values()))
        values = []
        for side in self.sides:
            share = statistics.median(a / b for a, b in zip(reference, times[side]))
            seconds = statistics.median(times[side])
            shown = size / 1e6 / seconds if size else seconds * {"ms": 1e3, "µs": 1e6, "s": 1}[unit]
            told = f"{shown:.0f}" if shown >= 100 else f"{shown:.3g}"
            values.append((share, f"{told} {unit}"))
        self.rows.append({"name": name, "values": values})
        print(name, *(f"{told} ({share:.2f})" for share, told in values), sep="\t", flush=True)

    def measure(self, make_small_files):
        """Measures all rows."""
        source = random.Random(7)
        places = [[source.randrange(BIG - LOOK) for _ in range(SEEKS)] for _ in range(self.rounds)]
        here = lambda side: side.folder / "big-0.wav"
        rounds = self.rounds

        def cached(side, dropped):
            read = lambda: read_whole(here(side), memoryview(bytearray(MIB)))
            if dropped:
                drop_pages(side, here(side))
                return timed(read)
            return min(timed(read) for _ in range(3))

        def in_new_folder(side, name, number, work):
            folder = side.folder / f"{name} {number}"
            folder.mkdir()
            return work(folder)

        # The connections are open then.
        for side in self.sides.values():
            side.copy(3 * rounds)
            side.look(3 * rounds)
        look = lambda side, n: timed(lambda: side.look(n))
        seeks = lambda side, n: timed(lambda: side.seeks(rounds + n, places[n]))
        copy = lambda side, n: timed(lambda: side.copy(2 * rounds + n))
        self.row("far: open + first 64 KiB", "ms", look)
        self.row(f"far: {SEEKS} seeks", "s", seeks)
        self.row("far: 256 MiB in order", "MB/s", copy, BIG)
        for side in self.sides.values():
            # Whole, verified, and opened anew.
            for _ in range(3):
                read_whole(here(side), memoryview(bytearray(MIB)))
                time.sleep(1)
        self.row("cached: 256 MiB from disk", "MB/s", lambda side, _: cached(side, True), BIG)
        self.row("cached: 256 MiB from memory", "MB/s", lambda side, _: cached(side, False), BIG)
        small = lambda folder: statistics.median(make_small_files(folder, False)) / 1e6
        saves = lambda folder: statistics.median(timed(lambda: save(folder)) for _ in range(SAVES))
        for name, work in [
            ("create, write 64 KiB, close", small),
            ("rename of a fresh file", rename),
            ("save: new, fsync, rename over", saves),
        ]:
            self.row(name, "µs", lambda side, n: in_new_folder(side, name[:6], n, work))

    def table(self):
        """Returns the table, as Markdown."""
        others = list(self.sides)[1:]
        lines = [f"| | {' | '.join(self.sides)} | {' | '.join(f'{side}, of plain' for side in others)} |"]
        lines.append("| --- |" + " ---: |" * (len(self.sides) + len(others)))
        for row in self.rows:
            told = [told for _, told in row["values"]]
            shares = [f"{share * 100:.0f} %" for share, _ in row["values"][1:]]
            lines.append(f"| {' | '.join([row['name'], *told, *shares])} |")
        return "\n".join(lines) + "\n"


def write(comparison, note):
    """Writes the chart, and table and chart into the README."""
    figures = {
        "title": "Speed, plain requests and a plain folder being 100 %",
        "note": note, "sides": list(comparison.sides), "rows": comparison.rows,
    }
    CHART.write_text(chart.render(figures))
    image = f"![how fast, in percent]({CHART.relative_to(ROOT)})"
    # Found with strace (rclone 1.75).
    unsynced = "\nrclone answers an `fsync` without one.\n" if "rclone" in comparison.sides else ""
    section = f"{BEGIN}## Speed\n\n{note}.\n\n{image}\n\n{comparison.table()}{unsynced}\n{END}"
    old = README.read_text()
    new = re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: section, old, flags=re.S)
    README.write_text(new if BEGIN in old else old.replace("## Limits\n", f"{section}\n## Limits\n", 1))
    print(f"\nwritten: {CHART.relative_to(ROOT)}, {README.name}")


def measure(arguments, rounds, line, make_small_files):
    """Measures all sides, prints the table, and writes it if that was asked for."""
    if not SERVER.exists():
        sys.exit(f"error: {SERVER} is missing: cargo build --release -p r2-model --example far_bucket")
    bucket = Bucket(["--big", str(3 * rounds + 1), "--tracks", "1", *line])
    mounts = []
    try:
        with tempfile.TemporaryDirectory(prefix="voicebeatfs-bench-", dir=arguments.dir) as top:
            top = pathlib.Path(top)
            for name in ("plain", "ours", "rclone"):
                (top / name).mkdir()
            mounts.append(Mount(top / "ours", arguments.binary, bucket))
            sides = {"plain": Plain(top / "plain", bucket), "voicebeatfs": Mounted(mounts[0])}
            if shutil.which("rclone"):
                mounts.append(Rclone(top / "rclone", bucket))
                sides["rclone"] = Mounted(mounts[1])
            else:
                print("rclone is not installed: it is left out")
            with open(top / "plain/big-0.wav", "wb") as file:
                for _ in range(BIG // MIB):
                    file.write(os.urandom(MIB))
            for mount in mounts:
                mount.start()
            comparison = Comparison(sides, rounds)
            try:
                comparison.measure(make_small_files)
            finally:
                for mount in mounts:
                    mount.stop()
            what = f", {line[1]} MB/s in all" if line else ""
            beside = f", beside {rclone_version()}" if "rclone" in sides else ""
            note = (
                f"Line of 60 ms and 50 MB/s a connection{what}{beside}; medians of {rounds} rounds, "
                f"{os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}"
            )
            print(f"\n{note}\n\n{comparison.table()}")
            for name, mount in zip(list(sides)[1:], mounts):
                print(f"{name}: peak memory {mount.peak_kib >> 10} MiB, {mount.cpu_seconds:.1f} s of CPU")
            print(f"load {os.getloadavg()[0]:.1f}")
            if arguments.write:
                write(comparison, note)
    finally:
        bucket.close()
