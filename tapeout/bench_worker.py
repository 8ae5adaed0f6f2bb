"""Time one model in one runtime, or write its logits: a program of its own, which runs under a competitor's Python.

Needs the standard library, numpy and the runtime. Reads one request (`tapeout.bench.Request` as JSON) from standard
input, and answers with one JSON object on the last line of standard output.
"""

import importlib.metadata
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Tokens of KV cache beyond what is asked for.
ROOM = 8
# What times a run: the wall, or the processor time of this process, in which waiting for other programs does not count.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DISTRIBUTIONS = ("openvino", "openvino-genai", "onnxruntime", "onnxruntime-genai", "llama_cpp_python")


class Llama:
    """llama.cpp through llama-cpp-python, on a GGUF file."""

    def __init__(self, request: Mapping[str, Any], context: int) -> None:
        from llama_cpp import Llama as Model

        threads = request["threads"]
        options = {"n_ctx": context, "n_batch": context, "verbose": False, "logits_all": request["task"] == "logits"}
        self.now = CLOCKS[request["clock"]]
        self.model = Model(
            request["path"], n_threads=threads, n_threads_batch=threads, **options, **request["settings"]
        )
        self.vocabulary = self.model.n_vocab()

    def time(self, prompt: Sequence[int], new_tokens: int) -> tuple[float, float]:
        """Seconds to the first logits, and seconds a token after them."""
        self.model.reset()
        start = self.now()
        self.model.eval(prompt)
        first = self.now()
        for index in range(new_tokens):
            self.model.eval([prompt[index % len(prompt)]])
        return first - start, (self.now() - first) / new_tokens

    def logits(self, tokens: Sequence[int], prefill: int) -> Any:
        """[tokens, vocab]: the first `prefill` at once, the others one at a time."""
        self.model.reset()
        for part in parts(tokens, prefill):
            self.model.eval(part)
        return np.array(self.model.scores[: len(tokens)])


class GenAi:
    """ONNX Runtime GenAI, on one of its folders."""

    def __init__(self, request: Mapping[str, Any], context: int) -> None:
        import onnxruntime_genai

        self.genai, self.context, self.now = onnxruntime_genai, context, CLOCKS[request["clock"]]
        config = onnxruntime_genai.Config(request["path"])
        options = {"intra_op_num_threads": request["threads"], **request["settings"]}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self.model = onnxruntime_genai.Model(config)
        stored = json.loads((Path(request["path"]) / "genai_config.json").read_text(encoding="utf-8"))
        self.vocabulary = int(stored["model"]["vocab_size"])

    def generator(self, length: int, least: int) -> Any:
        """A greedy generator of `length` tokens, which no end token stops before `least`."""
        parameters = self.genai.GeneratorParams(self.model)
        parameters.set_search_options(max_length=length, min_length=least, do_sample=False)
        return self.genai.Generator(self.model, parameters)

    def time(self, prompt: Sequence[int], new_tokens: int) -> tuple[float, float]:
        """Seconds to the first token, and seconds a token after it."""
        length = len(prompt) + new_tokens + ROOM
        generator = self.generator(length, length)
        start = self.now()
        generator.append_tokens(prompt)
        generator.generate_next_token()
        first = self.now()
        for _ in range(new_tokens):
            generator.generate_next_token()
        return first - start, (self.now() - first) / new_tokens

    def logits(self, tokens: Sequence[int], prefill: int) -> Any:
        """[tokens, vocab]: the first `prefill` at once; one at a time where a prefill gives its last position alone."""
        found: list[Any] = []
        for first in (prefill, 1):
            generator, found = self.generator(self.context, 0), []
            for part in parts(tokens, first):
                generator.append_tokens(part)
                found.append(np.array(generator.get_output("logits")[0], np.float32))
            if len(found[0]) == first:
                break
        return np.concatenate(found)


class OpenVino:
    """OpenVINO GenAI on the CPU, on one of its folders."""

    def __init__(self, request: Mapping[str, Any], _: int) -> None:
        self.now = CLOCKS[request["clock"]]
        self.path, self.logits_wanted = Path(request["path"]), request["task"] == "logits"
        self.settings = {
            "ATTENTION_BACKEND": "SDPA",
            "INFERENCE_NUM_THREADS": request["threads"],
            **request["settings"],
        }
        self.vocabulary = int(json.loads((self.path / "config.json").read_text(encoding="utf-8"))["vocab_size"])
        if self.logits_wanted:
            import openvino

            compiled = {name: value for name, value in self.settings.items() if name != "ATTENTION_BACKEND"}
            model = openvino.Core().compile_model(self.path / "openvino_model.xml", "CPU", compiled)
            self.request = model.create_infer_request()
        else:
            import openvino_genai

            self.pipeline = openvino_genai.LLMPipeline(str(self.path), "CPU", **self.settings)

    def time(self, prompt: Sequence[int], new_tokens: int) -> tuple[float, float]:
        """Seconds to the first token, and seconds a token after it, by the pipeline's clock.

        That clock is the wall's: in processor time it is one run that ends with the first token, and what another adds.
        """
        import openvino

        tokens = openvino.Tensor(np.array([prompt], np.int64))
        if self.now is not time.perf_counter:
            ends = [self.now()]
            for count in (1, new_tokens + 1):
                self.pipeline.generate(tokens, max_new_tokens=count, ignore_eos=True, do_sample=False)
                ends.append(self.now())
            first = ends[1] - ends[0]
            return first, max(ends[2] - ends[1] - first, 0.0) / new_tokens
        metrics = self.pipeline.generate(
            tokens, max_new_tokens=new_tokens + 1, ignore_eos=True, do_sample=False
        ).perf_metrics
        return metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean / 1e3

    def logits(self, tokens: Sequence[int], prefill: int) -> Any:
        """[tokens, vocab]: the first `prefill` at once, the others one at a time."""
        self.request.reset_state()
        found, done = [], 0
        for part in parts(tokens, prefill):
            end = done + len(part)
            fed = {
                "input_ids": np.array([part], np.int64),
                "attention_mask": np.ones((1, end), np.int64),
                "position_ids": np.arange(done, end, dtype=np.int64)[None],
                "beam_idx": np.zeros(1, np.int32),
            }
            found.append(np.array(self.request.infer(fed)["logits"][0], np.float32))
            done = end
        return np.concatenate(found)


KINDS: dict[str, type[Llama] | type[GenAi] | type[OpenVino]] = {"llama": Llama, "genai": GenAi, "openvino": OpenVino}


def parts(tokens: Sequence[int], prefill: int) -> Iterator[list[int]]:
    """The first `prefill` tokens together, the rest one by one."""
    yield list(tokens[:prefill])
    for token in tokens[prefill:]:
        yield [token]


def made_up(length: int, vocabulary: int) -> list[int]:
    """Token ids that are the same for every runtime, and no text."""
    return [(7 * index * index + 131 * index + 1000) % vocabulary for index in range(length)]


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Do what is asked; times are those of the second of two runs."""
    windows = request.get("windows", [])
    longest = max([length + request["new_tokens"] for length in request["prompts"]] + [len(one) for one in windows])
    subject = KINDS[request["kind"]](request, longest + 2 * ROOM)
    figures = {}
    if request["task"] == "logits":
        for number, window in enumerate(windows):
            np.save(Path(request["out"]) / f"{number}.npy", subject.logits(window, request["prefill"]))
    else:
        for length in request["prompts"]:
            prompt = made_up(length, subject.vocabulary)
            figures[str(length)] = [subject.time(prompt, request["new_tokens"]) for _ in range(2)][-1]
    return {"figures": figures, "versions": dict(versions())}


def versions() -> Iterator[tuple[str, str]]:
    """The runtimes that are installed beside this Python."""
    for name in DISTRIBUTIONS:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


if __name__ == "__main__":
    sys.stdout.write("\n" + json.dumps(answer(json.load(sys.stdin))) + "\n")
