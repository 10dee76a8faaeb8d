"""scikit-learn: a search and a forest on both of joblib's backends of processes."""

from joblib import parallel_config
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.svm import SVC

if __name__ == "__main__":
    data, target = load_iris(return_X_y=True)
    for backend in ("loky", "multiprocessing"):
        with parallel_config(backend, n_jobs=2):
            search = GridSearchCV(SVC(), {"C": [0.1, 1, 10]}, cv=3).fit(data, target)
            forest = RandomForestClassifier(10, random_state=0)
            score = cross_val_score(forest, data, target, cv=3).mean()
            print(backend, search.best_params_, score > 0.9)
