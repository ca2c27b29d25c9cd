"""Records of the data axis: where text comes from, how it becomes tokens, how tokens become batches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from corestone.core.spec import Spec

Role = Literal["mask", "pad", "classify"]
"""What a special token may be for, beside the separator and the sentinels."""

OnBad = Literal["stop", "skip"]
"""What to do with an input that cannot be read: one clear error, or a skip that is counted and reported."""


class Embedded(Spec):
    """A data set of the catalogue (`corestone data list`), read out of a pinned public wheel."""

    kind: Literal["embedded"] = "embedded"
    name: str


class Files(Spec):
    """Own text: files, folders or globs of .txt .md .tokens .raw .jsonl(.gz, .zst) .json.gz .parquet; `-` is standard
    input.

    Documents are held out by the hash of their name; of a lone document the end is held out.
    """

    kind: Literal["files"] = "files"
    paths: tuple[str, ...] = Field(min_length=1)
    text_key: str = "text"
    validation_percent: float = Field(default=5.0, gt=0, le=100)


class Hub(Spec):
    """A Hugging Face data set, streamed (`pip install corestone[hf]`); written `hf://path` on the command line."""

    kind: Literal["hub"] = "hub"
    path: str
    config: str | None = None
    split: str = "train"
    text_key: str = "text"
    validation_percent: float = Field(default=5.0, gt=0, le=100)


Source = Annotated[Embedded | Files | Hub, Field(discriminator="kind")]


class BytePair(Spec):
    """Byte-level byte-pair encoding (Radford et al. 2019, section 2.2), trained on the training side only.

    Any text can be written and comes back as it was. Memory stays bounded: training reads whole documents, evenly
    spread over the corpus, up to `sample_bytes`.

    Attributes:
        vocab_size: all tokens together, special ones too.
        special: what further special tokens are for, so that masked and classifying objectives run on this kind too.
        sentinels: tokens <extra_id_0>, <extra_id_1>, ... that mark cut spans; their ids descend from the highest.
    """

    kind: Literal["byte_pair"] = "byte_pair"
    vocab_size: int = Field(ge=257)
    special: tuple[Role, ...] = ()
    sentinels: int = Field(default=0, ge=0)
    sample_bytes: int = Field(default=64_000_000, ge=1000)

    @model_validator(mode="after")
    def _room(self) -> BytePair:
        if len(set(self.special)) != len(self.special):
            raise ValueError(f"special={list(self.special)} names a role twice")
        needed = 257 + len(self.special) + self.sentinels
        if self.vocab_size < needed:
            raise ValueError(f"256 bytes and the special tokens need vocab_size={needed} at least")
        return self


class WordPiece(Spec):
    """Word pieces as BERT has them (Devlin et al. 2018, section 3), trained like `BytePair`.

    [PAD] [UNK] [CLS] [SEP] [MASK] have the ids 0 to 4: BERT's order, without the reserved entries between. [SEP]
    separates documents. Text loses control characters and its kind and amount of white space; punctuation and CJK
    characters become words of their own. A word with a character that the vocabulary lacks, or of more than 100
    characters, becomes [UNK]; preparation counts these.

    Attributes:
        vocab_size: all tokens together, special ones too.
        lowercase: text also loses capitals and accents ("uncased").
    """

    kind: Literal["word_piece"] = "word_piece"
    vocab_size: int = Field(ge=16)
    lowercase: bool = True
    sample_bytes: int = Field(default=64_000_000, ge=1000)


class Unigram(Spec):
    """A unigram model over pieces (Kudo 2018) in the layout of T5 (Raffel et al. 2020), trained like `BytePair`.

    <pad> </s> <unk> have the ids 0 to 2; </s> separates documents; the sentinels' ids descend from the highest.
    Text loses its kind and amount of white space (U+2581, which marks words, is a blank too), and what the normaliser
    takes. Characters that the vocabulary lacks become <unk>, and preparation counts these, or bytes.

    Attributes:
        vocab_size: all tokens together, special ones too; T5's 32,000 pieces and 100 sentinels are 32,100.
        sentinels: tokens <extra_id_0>, <extra_id_1>, ... that mark cut spans.
        normalizer: nmt_nfkc, as T5 has it and SentencePiece by default (Kudo and Richardson 2018): Unicode's form NFKC,
            without control characters; or none.
        byte_fallback: ids 3 to 258 are the 256 bytes, and write what the other pieces cannot (as in LLaMA, Touvron et
            al. 2023, section 2.1).
        sample_bytes: less than elsewhere, as training takes some 40 times as long for each byte (docs/LOG.md).
    """

    kind: Literal["unigram"] = "unigram"
    vocab_size: int = Field(ge=16)
    sentinels: int = Field(default=100, ge=0)
    normalizer: Literal["nmt_nfkc", "none"] = "nmt_nfkc"
    byte_fallback: bool = False
    sample_bytes: int = Field(default=16_000_000, ge=1000)


class Bytes(Spec):
    """Each byte of UTF-8 is a token; one more ends a document."""

    kind: Literal["bytes"] = "bytes"


class TokenizerFile(Spec):
    """A tokenizer.json of the `tokenizers` library, taken as it is."""

    kind: Literal["file"] = "file"
    path: str
    end_of_document: str | None = None


Trained = BytePair | WordPiece | Unigram
"""The kinds that are trained; the others are taken as they are."""

Tokenizer = Annotated[Trained | Bytes | TokenizerFile, Field(discriminator="kind")]


class Prepare(Spec):
    """How documents become an immutable set of token files.

    Attributes:
        on_bad: what to do with a document or file that cannot be read.
        min_characters: shorter documents are dropped and counted.
        deduplicate: drop (and count) documents whose text, whitespace aside, was seen before.
        shard_tokens: tokens per file.
    """

    on_bad: OnBad = "stop"
    min_characters: int = Field(default=1, ge=1)
    deduplicate: bool = True
    shard_tokens: int = Field(default=16_777_216, ge=1024)


class Component(Spec):
    """One source of a mixture and its weight; weights need not sum to one."""

    source: Source
    weight: float = Field(default=1.0, gt=0)


class Data(Spec):
    """The data axis of a run on text.

    Attributes:
        components: sources and their weights, applied when batches are drawn, never to the files.
        tokenizer: one for all components; where it is trained, on the training side of all of them.
        prepare: how documents become token files.
        context_length: tokens per sample.
        keep_documents_apart: attention does not cross documents and positions restart at each one.
        prefetch: batches made ahead of the trainer by a background thread.
    """

    kind: Literal["text"] = "text"
    components: tuple[Component, ...] = Field(min_length=1)
    tokenizer: Tokenizer
    prepare: Prepare = Prepare()
    context_length: int = Field(ge=2)
    keep_documents_apart: bool = True
    prefetch: int = Field(default=4, ge=0)
