"""Writes the same rows with the libraries whose files Brazier reads: datasets, pyarrow, webdataset, megatron-energon.

    pip install datasets pyarrow webdataset pillow
    pip install --no-deps megatron-energon && pip install click braceexpand pyyaml
    python3 tests/scripts/fixtures_sources.py

The folder tests/fixtures/sources is replaced. Files of Parquet and Arrow differ by the version of their writer from one
run to the next; the rows in them do not.
"""

import io
import json
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import webdataset
from PIL import Image

OUT = Path(__file__).resolve().parent.parent / "fixtures" / "sources"
NUM_ROWS = 5


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (40 * number, 10, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def rows() -> list[dict]:
    """Chat rows: nested lists, text beyond ASCII, numbers, none to two images each."""
    found = []
    for number in range(NUM_ROWS):
        images = [f"{number}-{place}.png" for place in range(number % 3)]
        messages = [
            {"role": "user", "content": "<image>" * len(images) + f"ask {number} é 日本"},
            {"role": "assistant", "content": f"answer\n{number}"},
        ]
        found.append({"id": f"row-{number}", "score": number + 0.5, "ids": list(range(number)), "messages": messages, "images": images})
    return found


def with_bytes(row: dict) -> dict:
    images = [{"bytes": png(sum(map(ord, name)) % 6), "path": name} for name in row["images"]]
    return {**row, "images": images}


def write_jsonl() -> None:
    with open(OUT / "rows.jsonl", "w", encoding="utf-8") as file:
        for row in rows():
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            for image in with_bytes(row)["images"]:
                (OUT / image["path"]).write_bytes(image["bytes"])


def write_tables() -> None:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    schema = pa.schema(
        [("id", pa.string()), ("score", pa.float64()), ("ids", pa.list_(pa.int64())), ("messages", pa.list_(message)), ("images", pa.list_(image))]
    )
    table = pa.Table.from_pylist([with_bytes(row) for row in rows()], schema=schema)
    pq.write_table(table, OUT / "rows.parquet", row_group_size=2, compression="zstd")
    # The file format, its batches compressed.
    feather.write_feather(table, str(OUT / "rows.feather"), compression="lz4", chunksize=2)
    # Text as dictionaries and views, as other writers make it.
    other = table.set_column(0, "id", table["id"].dictionary_encode())
    with pa.OSFile(str(OUT / "rows.arrow"), "wb") as file, pa.ipc.new_stream(file, other.schema) as writer:
        writer.write_table(other, max_chunksize=3)


def write_saved() -> None:
    table = datasets.Dataset.from_list([with_bytes(row) for row in rows()])
    features = table.features.copy()
    features["images"] = datasets.List(datasets.Image())
    table = table.cast(features)
    split = datasets.DatasetDict({"train": table, "test": table.select([0]).flatten_indices()})
    split.save_to_disk(str(OUT / "saved"), num_shards={"train": 2, "test": 1})


def tar(path: Path, samples: list[dict]) -> None:
    with webdataset.TarWriter(str(path), mtime=0, user="u", group="g") as writer:
        for sample in samples:
            writer.write(sample)


def write_shard() -> None:
    samples = []
    for row in rows():
        sample = {"__key__": row["id"], "json": json.dumps(row).encode()}
        samples.append(sample | {image["path"]: image["bytes"] for image in with_bytes(row)["images"]})
    tar(OUT / "shard.tar", samples)


def write_energon() -> None:
    """Questions about an image in two shards."""
    (OUT / "energon").mkdir()
    for shard in range(2):
        samples = [
            {"__key__": f"{shard}{number}", "png": png(number), "txt": f"answer {shard}{number}".encode(),
             "json": json.dumps({"question": f"what {shard}{number}"}).encode()}
            for number in range(2)
        ]
        tar(OUT / "energon" / f"00000{shard}.tar", samples)


def prepare() -> None:
    """What `energon prepare` writes, but for its data bases, which are large and not read."""
    subprocess.run(
        [Path(sys.executable).parent / "energon", "prepare", OUT / "energon", "--non-interactive", "--split-ratio", "1,1,0",
         "--sample-type", "VQASample", "--field-map", json.dumps({"context": "json[question]", "answers": "txt", "image": "jpg,png"})],
        check=True,
    )
    for name in ["index.sqlite", "index.uuid"]:
        (OUT / "energon" / ".nv-meta" / name).unlink(missing_ok=True)


def write_timelines() -> None:
    """Tokens of fms-ehrs, padded to eight, with an outcome."""
    tokens = [[1, 5, 6, 2], [1, 7, 2], [1] + [9] * 10 + [2]]
    padded = [(row + [0] * 8)[:8] if len(row) <= 8 else row[:7] + [3] for row in tokens]
    table = pa.table(
        {
            "hospitalization_id": ["h0", "h1", "h2"],
            "tokens": pa.array(tokens, pa.large_list(pa.int64())),
            "times": pa.array([[datetime(2020, 1, 1)] * len(row) for row in tokens], pa.large_list(pa.timestamp("ms"))),
            "seq_len": pa.array([len(row) for row in tokens], pa.uint32()),
            "padded": pa.array(padded, pa.large_list(pa.int64())),
            "same_admission_death": [True, False, None],
        }
    )
    pq.write_table(table, OUT / "timelines.parquet")


def main() -> None:
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    write_jsonl()
    write_tables()
    write_saved()
    write_shard()
    write_energon()
    prepare()
    write_timelines()
    files = [path for path in OUT.rglob("*") if path.is_file()]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files)} bytes")


if __name__ == "__main__":
    main()
