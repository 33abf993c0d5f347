"""What a model has to beat: the words of a text, weighted, and a logistic regression."""

from collections.abc import Sequence

from ..jobs.extras import extra


def tfidf_predictions(
    train_texts: Sequence[str], train_labels: Sequence[str], texts: Sequence[str], seed: int = 0
) -> list[str]:
    """Labels that TF-IDF of words and pairs of words with logistic regression gives to `texts`.

    scikit-learn's defaults, but for pairs of words and a logarithm of counts; they take seconds on a CPU and are hard
    to beat on little data (Wang and Manning, 2012).

    Raises:
        ImportError: if scikit-learn is missing; names the extra that has it.
    """
    with extra("evaluate", "The baseline"):
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    pipeline = make_pipeline(words, LogisticRegression(max_iter=1000, random_state=seed))
    return pipeline.fit(train_texts, train_labels).predict(texts).tolist()
