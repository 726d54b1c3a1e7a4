"""scikit-learn's LogisticRegression. It has no autoencoder."""

from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from tests.peers.job import Job, Turns, objective


def probe(job: Job, turns: Turns) -> float:
    features, labels = job.array("train"), job.array("train_labels")
    with threadpool_limits(job.threads):
        for _ in range(job.rounds):
            turns.begin()
            model = LogisticRegression(C=1 / (len(features) * job.l2), tol=1e-4, max_iter=10_000)
            model.fit(features, labels)
            turns.end()
    return objective(job, model.coef_, model.intercept_)
