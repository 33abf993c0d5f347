"""An index follows its documents."""


def counts(report):
    return report.added, report.updated, report.deleted, report.unchanged


def test_a_folder_is_indexed_found_and_followed(rag, folder):
    report = rag.sync(folder)
    assert counts(report) == (6, 0, 0, 0)
    assert not report.failed
    for mode in ("hybrid", "dense", "lexical"):
        hit = rag.search("the moon is silver", k=3, mode=mode)[0]
        assert hit.document == (folder / "2.txt").as_posix()
        assert rag.document(hit.document).text[hit.start : hit.end] == hit.text == "the moon is silver"
    assert counts(rag.sync(folder)) == (0, 0, 0, 6)
    (folder / "2.txt").write_text("the sun is gold")
    (folder / "3.txt").unlink()
    report = rag.sync(folder)
    assert counts(report) == (0, 1, 0, 4)
    assert report.embedded == 1
    assert rag.search("wine", mode="lexical")[0].document.endswith("3.txt")
    assert counts(rag.sync(folder, delete_missing=True)) == (0, 0, 1, 5)
    assert not rag.search("wine", mode="lexical")
    assert rag.verify().ok
