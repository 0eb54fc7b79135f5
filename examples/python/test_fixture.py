"""Python tests stay pytest's: fixtures, parametrize and all the rest."""

import csv

import pytest


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "table.csv"
    path.write_text("name,age\nAda,36\nGrace,85\n")
    return path


@pytest.mark.parametrize(("name", "age"), [("Ada", 36), ("Grace", 85)])
def test_age(table, name, age):
    with table.open() as lines:
        ages = {row["name"]: int(row["age"]) for row in csv.DictReader(lines)}
    assert ages[name] == age
