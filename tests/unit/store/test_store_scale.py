"""Ten million samples: read within the memory that a report has for them."""

import contextlib
import json
import sqlite3
import subprocess
import sys
import zlib
from array import array

from ergometry.store.writer import CHUNK_BYTES, Writer, create_run_folder, process_file
from support.synthetic import PACKAGE

SAMPLES = 10_000_000

READ = """
import json, sys
from pathlib import Path
from ergometry.store.reader import load

run = load(Path(sys.argv[1]))
table = run.samples[0].table
ends = [table.rows[0].tolist(), table.rows[-1].tolist()]
# Not getrusage: its peak is inherited from whoever started this process.
peak_bytes = 1024 * int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
print(json.dumps([len(table), ends, peak_bytes, [n.detail for n in run.notices]]))
"""


def test_ten_million_samples_are_read_in_little_memory(tmp_path):
    file = process_file(create_run_folder(tmp_path, "a"), 1)
    writer = Writer(file)
    writer.declare_samples("rapl", [PACKAGE])
    writer.finish("completed", 0, SAMPLES / 10)
    # Full chunks, as the writer's merging leaves them, put in place without its bookkeeping.
    rows, data, k, seq = CHUNK_BYTES // 16, b"", 0, 0
    with contextlib.closing(sqlite3.connect(file)) as connection, connection:
        while k < SAMPLES:
            n = min(rows, SAMPLES - k)
            data = array("d", [x for i in range(k, k + n) for x in (i / 10, 5.0 * i)]).tobytes()
            row = (1, seq, k / 10, (k + n) / 10, n, zlib.crc32(data), data)
            connection.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            k, seq = k + n, seq + 1
        connection.execute("UPDATE kinds SET n = ?", (SAMPLES,))
    done = subprocess.run([sys.executable, "-c", READ, str(file.parent)], capture_output=True, text=True, check=True)
    n, ends, peak_bytes, notices = json.loads(done.stdout)
    assert (n, notices) == (SAMPLES, [])
    assert ends == [[0.0, 0.0], [(SAMPLES - 1) / 10, 5.0 * (SAMPLES - 1)]]
    assert peak_bytes < 400e6
