"""`where`: which documents are searched. Chroma's language, answered by the catalog, so that all modes agree.

{"type": "pdf"}   {"year": {"$gte": 2000}}   {"document": {"$in": [...]}}   {"$or": [{...}, {...}]}
"""

from typing import Any

from .documents import DOCUMENT, Scalar

COMPARISONS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
OPERATORS = ["$eq", "$ne", *COMPARISONS, "$in", "$nin"]


def where_sql(where: dict[str, Any]) -> tuple[str, list[Scalar]]:
    """A condition on the table `documents`, and its parameters.

    As in Chroma, a document without the field is "not equal" to everything, and numbers are compared with numbers.

    Raises:
        ValueError: `where` is not in the language.
    """
    if not isinstance(where, dict) or not where:
        raise ValueError(f'where is {where!r}; give a mapping such as {{"type": "pdf"}}.')
    parts, parameters = [], []
    for key, value in where.items():
        if key in ("$and", "$or"):
            if not isinstance(value, list) or not value:
                raise ValueError(f"where: {key} takes a list of conditions, not {value!r}.")
            inner = [where_sql(each) for each in value]
            parts.append("(" + f" {key[1:].upper()} ".join(sql for sql, _ in inner) + ")")
            parameters += [parameter for _, given in inner for parameter in given]
            continue
        if not isinstance(key, str) or key.startswith("$") or '"' in key:
            raise ValueError(
                f"where: there is no field {key!r}; conditions are joined by $and and $or, "
                f"and a field's are {', '.join(OPERATORS)}."
            )
        conditions = value if isinstance(value, dict) else {"$eq": value}
        if not conditions:
            raise ValueError(f"where: {key} has an empty condition.")
        for operator, operand in conditions.items():
            sql, given = _condition(key, operator, operand)
            parts.append(sql)
            parameters += given
    return "(" + " AND ".join(parts) + ")", parameters


def _condition(key: str, operator: str, operand: Any) -> tuple[str, list[Scalar]]:
    field, path = ("documents.name", []) if key == DOCUMENT else ("json_extract(documents.metadata, ?)", [f'$."{key}"'])
    if operator in ("$in", "$nin"):
        if not isinstance(operand, list) or not operand or not all(isinstance(each, Scalar) for each in operand):
            raise ValueError(f"where: {key} {operator} takes a list of values, not {operand!r}.")
        marks = ", ".join("?" * len(operand))
        if operator == "$in":
            return f"{field} IN ({marks})", [*path, *operand]
        return f"ifnull({field} NOT IN ({marks}), TRUE)", [*path, *operand]
    if not isinstance(operand, Scalar):
        raise ValueError(f"where: {key} {operator} takes text, a number or a boolean, not {operand!r}.")
    if operator in ("$eq", "$ne"):
        return f"{field} IS {'NOT ' if operator == '$ne' else ''}?", [*path, operand]
    if operator in COMPARISONS:
        if isinstance(operand, str):
            raise ValueError(f"where: {key} {operator} compares numbers, not {operand!r}.")
        is_number = f"typeof({field}) IN ('integer', 'real')"
        return f"({is_number} AND {field} {COMPARISONS[operator]} ?)", [*path, *path, operand]
    raise ValueError(f"where: there is no operator {operator!r}; give one of {', '.join(OPERATORS)}.")
