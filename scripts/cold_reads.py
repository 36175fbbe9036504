"""Cold reads through a long line, beside plain requests: a part of scripts/bench."""

import concurrent.futures
import datetime
import hashlib
import hmac
import http.client
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

MIB = 1 << 20
BIG = 256 * MIB
TRACK = 16 * MIB
LOOK = 64 << 10
SEEKS = 20
READERS = 16
STEMS = 32
# 48 kHz, stereo, 24 bit, at 1.5 times its speed.
STEM_RATE = 48_000 * 2 * 3 * 1.5
START_LIMIT_SECONDS = 60
REST_SECONDS = 0.1
ROOT = pathlib.Path(__file__).resolve().parent.parent
SERVER = ROOT / "target/release/examples/far_bucket"

clock = time.perf_counter


class Bucket:
    """The bucket at the far end of the line."""

    def __init__(self, options):
        command = [SERVER, *options]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        words = self.process.stdout.readline().split()
        self.endpoint, self.name, self.access_key, self.secret_key = words

    def asked(self):
        """Returns how many GETs there were since the last call, and for how many bytes."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        gets, size = self.process.stdout.readline().split()
        return int(gets), int(size)

    def close(self):
        """Ends the server."""
        self.process.kill()
        self.process.wait()


class Client:
    """Plain ranged GETs, one kept connection for each thread."""

    def __init__(self, bucket):
        self.bucket = bucket
        self.netloc = urllib.parse.urlparse(bucket.endpoint).netloc
        self.local = threading.local()

    def get(self, key, offset, length, buffer):
        """Reads a range into a buffer, again and again."""
        connection = getattr(self.local, "connection", None)
        if connection is None:
            connection = self.local.connection = http.client.HTTPConnection(self.netloc)
        path = f"/{self.bucket.name}/{key}"
        connection.request("GET", path, headers=self.headers(path, offset, length))
        answer = connection.getresponse()
        assert answer.status == 206, answer.status
        left = length
        while left:
            got = answer.readinto(buffer)
            assert got, "the body ended early"
            left -= got
        answer.read()

    def headers(self, path, offset, length):
        """Returns the headers of a signed GET (AWS Signature Version 4)."""
        now = datetime.datetime.now(datetime.timezone.utc)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        headers = {
            "host": self.netloc,
            "range": f"bytes={offset}-{offset + length - 1}",
            "x-amz-content-sha256": "UNSIGNED-PAYLOAD",
            "x-amz-date": stamp,
        }
        names = ";".join(headers)
        lines = [f"{name}:{value}" for name, value in headers.items()]
        request = "\n".join(["GET", path, "", *lines, "", names, "UNSIGNED-PAYLOAD"])
        scope = f"{day}/auto/s3/aws4_request"
        digest = hashlib.sha256(request.encode()).hexdigest()
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"
        key = b"AWS4" + self.bucket.secret_key.encode()
        for part in (day, "auto", "s3", "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.bucket.access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"
        )
        return headers


class Mount:
    """A mount of the bucket with an empty cache, anew for each group."""

    def __init__(self, folder, binary, bucket, settings="LIST_TTL_SECONDS=600\n"):
        self.folder, self.binary = pathlib.Path(folder), binary
        self.mountpoint = self.folder / "mnt"
        for name in ("mnt", "samples"):
            (self.folder / name).mkdir()
        self.env_file = self.folder / "env"
        self.env_file.write_text(
            f"R2_ENDPOINT_URL={bucket.endpoint}\nR2_ACCOUNT_ID=bench\n"
            f"R2_ACCESS_KEY_ID={bucket.access_key}\nR2_SECRET_ACCESS_KEY={bucket.secret_key}\n"
            f"R2_BUCKET_NAME={bucket.name}\nCACHE_MIN_FREE_BYTES=0\n{settings}"
        )
        self.env_file.chmod(0o600)
        self.environment = None
        self.process = None
        self.peak_kib = 0
        self.cpu_seconds = 0.0

    def mount_command(self):
        """Returns what mounts and stays."""
        return [self.binary, "--env-file", self.env_file, "mount", "--foreground", self.mountpoint]

    def unmount_command(self):
        """Returns what unmounts."""
        return [self.binary, "--env-file", self.env_file, "umount", self.mountpoint]

    def start(self):
        """Mounts with an empty cache; returns when the names are known."""
        shutil.rmtree(self.folder / "cache", ignore_errors=True)
        with open(self.folder / "log", "a") as log:
            self.process = subprocess.Popen(
                self.mount_command(), cwd=self.folder, stdout=log, stderr=log, env=self.environment
            )
        end = time.monotonic() + START_LIMIT_SECONDS
        while not os.path.ismount(self.mountpoint):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, "not mounted in time"
            time.sleep(0.02)
        os.listdir(self.mountpoint / "projects")
        time.sleep(0.5)

    def stop(self):
        """Unmounts, and notes what the process took."""
        with open(f"/proc/{self.process.pid}/status") as status:
            peak = next(line for line in status if line.startswith("VmHWM"))
        self.peak_kib = max(self.peak_kib, int(peak.split()[1]))
        with open(f"/proc/{self.process.pid}/stat") as stat:
            ticks = stat.read().rsplit(")", 1)[1].split()[11:13]
        self.cpu_seconds += sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        subprocess.run(self.unmount_command(), cwd=self.folder, check=True)
        self.process.wait(START_LIMIT_SECONDS)

    def path(self, name):
        """Returns the path of a file in the mount."""
        return self.mountpoint / "projects" / name


def timed(work):
    """Returns how many seconds a call takes."""
    begun = clock()
    work()
    return clock() - begun


def read_whole(path, buffer, look=None):
    """Reads a file to its end; calls `look` after its first 64 KiB. Returns how long it is."""
    file = os.open(path, os.O_RDONLY)
    try:
        size = os.readv(file, [buffer[:LOOK]])
        if look:
            look()
        while got := os.readv(file, [buffer]):
            size += got
        return size
    finally:
        os.close(file)


class ColdReads:
    """The groups of the benchmark, and the table of what they found."""

    def __init__(self, mount, bucket, rounds):
        self.mount, self.bucket, self.rounds = mount, bucket, rounds
        self.client = Client(bucket)
        self.pool = concurrent.futures.ThreadPoolExecutor(READERS)
        self.buffer = memoryview(bytearray(MIB))
        self.random = random.Random(11)
        self.rows = []

    def row(self, name, ours, reference, unit, goal, note=""):
        """Adds a line to the table: medians, and the median of the ratios of the rounds."""
        ratio = statistics.median(a / b for a, b in zip(ours, reference))
        ours, reference = statistics.median(ours), statistics.median(reference)
        line = f"| {name} | {ours:.4g} {unit} | {reference:.4g} {unit} | {ratio:.2f} | {goal} |{note} |"
        self.rows.append(line)
        print(line, flush=True)

    def one_look(self):
        """Returns the seconds of one plain request."""
        offset = self.random.randrange(BIG - LOOK)
        return timed(lambda: self.client.get("projects/big-0.wav", offset, LOOK, self.buffer))

    def first_byte(self):
        """Opens a file and reads its first 64 KiB."""
        self.one_look()
        ours, reference, gets = [], [], []
        for number in range(self.rounds):
            self.bucket.asked()
            file = -1

            def look():
                nonlocal file
                file = os.open(self.mount.path(f"big-{number}.wav"), os.O_RDONLY)
                assert len(os.pread(file, LOOK, 0)) == LOOK

            ours.append(timed(look) * 1e3)
            os.close(file)
            # Both rest as long before: on a shared machine, what slept for half a second finds its code and data
            # in no processor's cache, which costs the larger program up to 30 ms.
            time.sleep(REST_SECONDS)
            gets.append(self.bucket.asked()[0])
            reference.append(self.one_look() * 1e3)
            time.sleep(REST_SECONDS)
        self.row("open + first 64 KiB", ours, reference, "ms", "≤ 1.15", f" {max(gets)} request")

    def seeks(self):
        """Reads 64 KiB at 20 places of a file."""
        self.one_look()
        ours, reference, sizes = [], [], []
        for number in range(self.rounds):
            self.bucket.asked()
            file = os.open(self.mount.path(f"big-{number}.wav"), os.O_RDONLY)
            places = [self.random.randrange(BIG - LOOK) for _ in range(SEEKS)]
            ours.append(timed(lambda: [os.pread(file, LOOK, place) for place in places]))
            os.close(file)
            time.sleep(0.5)
            sizes.append(self.bucket.asked()[1] / SEEKS)
            reference.append(timed(lambda: [self.one_look() for _ in range(SEEKS)]))
        note = f" {max(sizes) / MIB:.2f} MiB a seek"
        self.row("20 seeks", ours, reference, "s", "≤ 1.00", note)

    def sequential(self):
        """Reads files of 256 MiB from start to end."""
        part = 8 * MIB
        buffers = threading.local()

        def plain(key, offset, length):
            if not hasattr(buffers, "own"):
                buffers.own = memoryview(bytearray(MIB))
            self.client.get(key, offset, length, buffers.own)

        def reference(key):
            parts = range(0, BIG, part)
            list(self.pool.map(lambda offset: plain(key, offset, part), parts))

        reference("projects/big-0.wav")
        ours, theirs = [], []
        for number in range(self.rounds):
            path = self.mount.path(f"big-{number}.wav")
            assert number or read_whole(path, self.buffer) == BIG
            path = self.mount.path(f"big-{number + 1}.wav")
            time.sleep(1.5)
            ours.append(BIG / 1e6 / timed(lambda: read_whole(path, self.buffer)))
            time.sleep(1.5)
            theirs.append(BIG / 1e6 / timed(lambda: reference(f"projects/big-{number}.wav")))
        self.row("256 MiB in order", ours, theirs, "MB/s", "≥ 0.95")

    def sixteen(self):
        """Reads 16 files of 16 MiB at once."""
        def all_at_once(work):
            begun = clock()
            return [ended - begun for ended in self.pool.map(work, range(READERS))]

        def plain(number):
            self.client.get(f"projects/track-{number}.wav", 0, TRACK, memoryview(bytearray(MIB)))
            return clock()

        all_at_once(plain)
        ours, theirs, looks, look = [], [], [], []
        for number in range(self.rounds):
            firsts = []

            def through_mount(reader, base=number * READERS):
                path = self.mount.path(f"track-{base + reader}.wav")
                note = lambda: firsts.append(clock())
                assert read_whole(path, memoryview(bytearray(MIB)), note) == TRACK
                return clock()

            begun = clock()
            ours.append(READERS * TRACK / 1e6 / max(all_at_once(through_mount)))
            looks.append((max(firsts) - begun) * 1e3)
            time.sleep(1.5)
            theirs.append(READERS * TRACK / 1e6 / max(all_at_once(plain)))
            look.append(statistics.median(self.one_look() for _ in range(5)) * 1e3)
        self.row("16 files at once", ours, theirs, "MB/s", "≥ 0.95")
        self.row("16 files: last first byte", looks, look, "ms", "≤ 2.00")

    def stems(self, seconds):
        """Plays 32 stems at 1.5 times their bit rate."""
        period = LOOK / STEM_RATE
        size = TRACK
        begun = clock() + 0.5
        waits = []

        def play(number):
            file = os.open(self.mount.path(f"track-{number}.wav"), os.O_RDONLY)
            for block in range(int(seconds / period)):
                due = begun + block * period
                time.sleep(max(0, due - clock()))
                assert len(os.pread(file, LOOK, block * LOOK % size)) == LOOK
                waits.append((due - begun, clock() - due))
            os.close(file)

        threads = [threading.Thread(target=play, args=(number,)) for number in range(STEMS)]
        self.bucket.asked()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gets, size = self.bucket.asked()
        late = sum(wait > period for due, wait in waits if due >= 1)
        longest = max(wait for due, wait in waits if due >= 1)
        first = max(wait for due, wait in waits if due == 0)
        played = STEMS * int(seconds / period) * LOOK
        line = (
            f"{STEMS} stems for {seconds} s: {late} reads late after the first second, the longest "
            f"took {longest * 1e3:.0f} ms, the last first byte {first * 1e3:.0f} ms; "
            f"{played >> 20} MiB played, {size >> 20} MiB asked for in {gets} requests"
        )
        self.rows.append("\n" + line)
        print("\n" + line, flush=True)


def measure(arguments, rounds, line):
    """Runs the groups and prints the table."""
    if not SERVER.exists():
        sys.exit(f"error: {SERVER} is missing: cargo build --release -p r2-model --example far_bucket")
    tracks = max(rounds * READERS, STEMS)
    bucket = Bucket(["--big", str(rounds + 1), "--tracks", str(tracks), *line])
    try:
        with tempfile.TemporaryDirectory(prefix="voicebeatfs-bench-", dir=arguments.dir) as folder:
            mount = Mount(folder, arguments.binary, bucket)
            reads = ColdReads(mount, bucket, rounds)
            print(f"cold reads, {' '.join(line) or 'no limit in all'}, medians of {rounds}\n")
            print("| what | mount | plain requests | ratio | goal | |")
            print("| --- | ---: | ---: | ---: | --- | --- |")
            groups = {
                "first": reads.first_byte,
                "seeks": reads.seeks,
                "sequential": reads.sequential,
                "sixteen": reads.sixteen,
                "stems": lambda: reads.stems(arguments.seconds),
            }
            for name in arguments.group or groups:
                mount.start()
                try:
                    groups[name]()
                finally:
                    mount.stop()
            print(
                f"\npeak memory {mount.peak_kib >> 10} MiB, {mount.cpu_seconds:.1f} s of CPU, "
                f"load {os.getloadavg()[0]:.1f}\n"
            )
    finally:
        bucket.close()
