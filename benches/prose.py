#!/usr/bin/env python3
"""Texts unlike the calibration texts: paragraphs of the README files of the crates that efq is built from.

usage: prose.py TOKENIZER.json OUT.npz [--count 256] [--length 128]

Reads what `cargo fetch` left on this machine. Needs numpy and tokenizers.
"""
import argparse, json, pathlib, re, subprocess
import numpy as np
from tokenizers import Tokenizer


def paragraphs():
    metadata = subprocess.run(["cargo", "metadata", "--format-version", "1", "--locked"], capture_output=True, check=True)
    folders = sorted((p["name"], p["version"], pathlib.Path(p["manifest_path"]).parent)
                     for p in json.loads(metadata.stdout)["packages"] if p["source"])
    seen = set()
    for _, _, folder in folders:
        for readme in sorted(folder.glob("README.md")):
            text = re.sub(r"```.*?```", "", readme.read_text(errors="replace"), flags=re.S)
            for block in re.split(r"\n\s*\n", text):
                words = re.sub(r"[`*]|\[([^\]]*)\][(\[][^)\]]*[)\]]", r"\1", " ".join(block.split()))
                sentence = len(words) >= 80 and words[0].isalpha() and words.endswith(".") and "http" not in words
                if sentence and words not in seen:
                    seen.add(words)
                    yield words


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer"); parser.add_argument("out")
    parser.add_argument("--count", type=int, default=256); parser.add_argument("--length", type=int, default=128)
    args = parser.parse_args()
    found = list(paragraphs())
    texts = [found[at * len(found) // args.count] for at in range(args.count)]
    tokenizer = Tokenizer.from_file(args.tokenizer)
    tokenizer.enable_truncation(args.length)
    tokenizer.enable_padding(length=args.length)
    encoded = tokenizer.encode_batch(texts)
    arrays = {"input_ids": [e.ids for e in encoded], "attention_mask": [e.attention_mask for e in encoded],
              "token_type_ids": [e.type_ids for e in encoded]}
    np.savez(args.out, **{name: np.array(values, np.int64) for name, values in arrays.items()})
    print(f"{args.count} of {len(found)} paragraphs, {sum(map(sum, arrays['attention_mask'])) / args.count:.1f} tokens each")


if __name__ == "__main__":
    main()
