"""Reads what `brazier data convert` writes with the libraries it is written for: datasets, pyarrow, webdataset, tarfile,
and megatron-energon where it is installed.

    pip install datasets pyarrow webdataset pillow
    cargo build --release
    python3 tests/scripts/check_converted.py target/release/brazier
"""

import io
import json
import struct
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

NUM_ROWS = 7
MESSAGE = {"role": datasets.Value("string"), "content": datasets.Value("string")}


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (30 * number, 20, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def write_rows(folder: Path) -> list[dict]:
    rows = []
    for number in range(NUM_ROWS):
        names = [f"images/{number}-{place}.png" for place in range(number % 3)]
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(png(number))
        messages = [{"role": "user", "content": "<image>" * len(names) + f"é 日本 {number}"}, {"role": "assistant", "content": ""}]
        row = {"id": f"r{number}", "large": 2**53 + 1 + number, "score": number / 2, "ids": list(range(number)), "empty": [],
               "messages": messages, "images": names}
        rows.append(row if number % 2 else {**row, "even": True})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return rows


def expect(name: str, condition: bool) -> None:
    if not condition:
        sys.exit(f"{name}: WRONG")
    print(f"{name}: fine")


def plain(row: dict) -> dict:
    """A row of `datasets` without nulls, its images as bytes."""
    row = {key: value for key, value in row.items() if value is not None}
    row["images"] = [image["bytes"] for image in row["images"]]
    return row


def expected_of(row: dict, folder: Path) -> dict:
    return {**row, "images": [(folder / name).read_bytes() for name in row["images"]]}


def check_dataset(name: str, data: datasets.Dataset, expected: list[dict]) -> None:
    features = data.features
    expect(f"{name}: features", features["images"] == datasets.List(datasets.Image()) and features["large"] == datasets.Value("int64")
           and features["messages"] == datasets.List(MESSAGE) and features["even"] == datasets.Value("bool")
           and features["empty"] == datasets.List(datasets.Value("null")))
    expect(f"{name}: images decode", all(image.size == (4, 3) for row in data for image in row["images"]))
    raw = data.cast_column("images", datasets.List(datasets.Image(decode=False)))
    expect(f"{name}: rows", [plain(row) for row in raw] == expected)
    expect(f"{name}: paths", raw[1]["images"][0]["path"] == "images/1-0.png")
    # What `datasets` does next must work as well.
    expect(f"{name}: map, filter, shuffle", len(data.map(lambda row: {"n": len(row["ids"])}).filter(lambda row: row["n"] > 2).shuffle(1)) == 4)


def check_shards(folder: Path, rows: list[dict], expected: list[dict]) -> None:
    found = []
    for path in sorted(folder.glob("shard-*.tar")):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
            starts = [member.offset for member in members if member.name.endswith(".json")]
            index = (path.with_suffix(".tar.idx")).read_bytes()
            offsets = list(struct.unpack(f"<{len(index) // 8}Q", index))
            last = members[-1]
            expect(f"{path.name}: index", offsets == starts + [last.offset_data + -(-last.size // 512) * 512])
            found += [member.name for member in members]
    expect("tar: names", found[:5] == ["000000000.json", "000000001.json", "000000001.png", "000000002.json", "000000002.0.png"])
    import webdataset

    urls = sorted(map(str, folder.glob("shard-*.tar")))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    expect("webdataset: keys", [sample["__key__"] for sample in samples] == [f"{number:09}" for number in range(NUM_ROWS)])
    raw = list(webdataset.WebDataset(urls, shardshuffle=False))
    images = [[value for key, value in sorted(sample.items()) if key.endswith("png")] for sample in raw]
    expect("webdataset: images", images == [row["images"] for row in expected])
    texts = [{key: value for key, value in sample["json"].items() if key != "images"} for sample in samples]
    expect("webdataset: rows", texts == [{key: value for key, value in row.items() if key != "images"} for row in rows])


def check_energon(brazier: str, folder: Path) -> None:
    try:
        from megatron.energon import WorkerConfig, get_train_dataset, get_loader  # noqa: F401
    except ImportError as error:
        print(f"energon: not there ({error})")
        return
    subprocess.run([brazier, "data", "prepare", folder, "--sample-type", "CrudeWebdataset", "--split-ratio", "1,0,0"], check=True)
    from megatron.energon import Cooker, DefaultTaskEncoder, stateless

    @stateless
    def cook(sample: dict) -> dict:
        return sample

    class Encoder(DefaultTaskEncoder):
        cookers = [Cooker(cook)]

    data = get_train_dataset(folder, batch_size=None, shuffle_buffer_size=None, max_samples_per_sequence=None,
                             worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0), task_encoder=Encoder(), repeat=False)
    keys = sorted(sample["__key__"].split("/")[-1] for sample in get_loader(data))
    expect("energon: samples", keys == [f"{number:09}" for number in range(NUM_ROWS)])


def main() -> None:
    datasets.disable_progress_bars()
    brazier = str(Path(sys.argv[1]).resolve())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_rows(folder)
        expected = [expected_of(row, folder) for row in rows]

        def convert(*args: str) -> None:
            subprocess.run([brazier, "data", "convert", *args], check=True, cwd=folder, stdout=subprocess.DEVNULL)

        for number, compression in enumerate(["none", "gzip", "zstd", "snappy", "lz4"]):
            convert("rows.jsonl", f"{number}.parquet", "--compression", compression)
            table = pq.read_table(folder / f"{number}.parquet")
            expect(f"parquet, {compression}", table["large"].to_pylist() == [row["large"] for row in rows])
        image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        expect("parquet: type of images", table.schema.field("images").type == pa.list_(image))
        loaded = datasets.load_dataset("parquet", data_files=str(folder / "3.parquet"), split="train", cache_dir=str(folder / "cache"))
        check_dataset("load_dataset", loaded, expected)
        convert("3.parquet", "hub", "--format", "parquet", "--max-shard-rows", "3", "--to-split", "validation")
        loaded = datasets.load_dataset(str(folder / "hub"), split="validation", cache_dir=str(folder / "cache"))
        check_dataset("load_dataset of a folder", loaded, expected)
        for compression in ["none", "zstd", "lz4"]:
            convert("3.parquet", f"saved-{compression}", "--format", "arrow", "--max-shard-rows", "3", "--compression", compression)
            check_dataset(f"load_from_disk, {compression}", datasets.load_from_disk(str(folder / f"saved-{compression}")), expected)
        convert("saved-none", "one.arrow")
        check_dataset("Dataset.from_file", datasets.Dataset.from_file(str(folder / "one.arrow")), expected)
        convert("one.arrow", "shards", "--format", "tar", "--max-shard-rows", "3")
        check_shards(folder / "shards", rows, expected)
        check_energon(brazier, folder / "shards")
        convert("shards", "back", "--format", "jsonl")
        back = [json.loads(line) for line in (folder / "back" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
        for row in back:
            del row["__key__"]
        expect("and back", [expected_of(row, folder / "back") for row in back] == expected)
        # What `datasets` itself saves.
        theirs = datasets.load_from_disk(str(folder / "saved-none"))
        theirs.save_to_disk(str(folder / "theirs"), num_shards=2)
        convert("theirs", "theirs.parquet")
        mine = table.to_pylist()
        for image in (image for row in mine for image in row["images"]):
            image["path"] = Path(image["path"]).name  # As it embeds them.
        expect("of save_to_disk", pq.read_table(folder / "theirs.parquet").to_pylist() == mine)


if __name__ == "__main__":
    main()
