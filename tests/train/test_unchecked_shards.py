"""`data.verify: never` is on record, with what it takes from the promise."""


def test_unchecked_shards_are_on_record(driver, pool):
    """In run.json's segment, for whoever reads it later; a checked run says nothing."""
    ended = driver.train(pool, "unchecked", "data.verify=never", until=1)
    checked = driver.train(pool, "checked", until=1)

    assert any("data.verify is never" in warning for warning in ended.record.last.warnings)
    assert checked.record.last.warnings == []
