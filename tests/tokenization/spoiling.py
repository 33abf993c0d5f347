"""Ways to spoil a tokenizer.json."""

import json


def cut_off(data: dict) -> str:
    return json.dumps(data)[:-40]


def changed(**fields):
    def change(data: dict) -> str:
        for path, value in fields.items():
            *folders, name = path.split("__")
            place = data
            for folder in folders:
                place = place[folder]
            if value is None:
                del place[name]
            else:
                place[name] = value
        return json.dumps(data)

    return change
