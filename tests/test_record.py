import pandas as pd
import pytest

from icm_core.record import PACKAGES, run_record


class StandIn:
    name, fingerprint = "some-encoder", "f00"


def test_the_record_survives_parquet_and_names_what_was_used(tmp_path):
    record = run_record({"seeds": [0, 1]}, [StandIn()])
    table = pd.DataFrame({"value": [1.0]})
    table.attrs = record
    table.to_parquet(tmp_path / "t.parquet")
    read = pd.read_parquet(tmp_path / "t.parquet").attrs
    assert read == record
    assert read["parameters"] == {"seeds": [0, 1]}
    assert read["weights"] == {"some-encoder": "f00"}
    assert set(read["versions"]) == {"python", *PACKAGES}


def test_the_record_is_the_same_when_the_run_is_repeated():
    assert run_record({"n": 1}) == run_record({"n": 1})


def test_a_parameter_that_is_no_json_is_refused():
    with pytest.raises(TypeError, match="JSON"):
        run_record({"path": object()})
