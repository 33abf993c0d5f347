"""One chat as ids and labels."""

from foliogpt.data.encoding import TurnEncoder


def encode_turns(tokenizer, messages: list[dict], tools: list[dict] | None = None) -> dict[str, list[int]]:
    encoder = TurnEncoder(tokenizer)
    return encoder.encode_batch([encoder.render(messages, tools)])[0]
