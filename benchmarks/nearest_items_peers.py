"""One library's nearest neighbours, for `neighbours.py`: run by the interpreter that has it.

    python nearest_items_peers.py LIBRARY FOLDER DEPTH

FOLDER holds vectors.npy float32[n, d], queries.npy float32[q, d] and blocked.npy bool[n]. Prints one
JSON line: seconds to build, milliseconds of processor time of each query, the items found, for
searches without and with the blocked items left out inside the search (null where it cannot be).
"""

import json
import sys
from pathlib import Path
from time import perf_counter, thread_time

import numpy as np

MEMBERS_PER_LIST, PROBED_MEMBERS = 300, 12_000
"""As ours has them."""


def faiss_lists(vectors):
    import faiss

    faiss.omp_set_num_threads(1)
    count, width = vectors.shape
    lists = max(1, count // MEMBERS_PER_LIST)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    probes = min(lists, PROBED_MEMBERS // MEMBERS_PER_LIST)

    def search(query, depth, blocked):
        wanted = faiss.SearchParametersIVF(nprobe=probes)
        if blocked is not None:
            bits = np.packbits(~blocked, bitorder="little")
            wanted = faiss.SearchParametersIVF(nprobe=probes, sel=faiss.IDSelectorBitmap(bits))
        return index.search(query[None], depth, params=wanted)[1][0]

    return search


def hnsw(vectors):
    import hnswlib

    index = hnswlib.Index("ip", vectors.shape[1])
    index.init_index(len(vectors), ef_construction=128, M=16, random_seed=1)
    index.set_num_threads(1)
    index.add_items(vectors)

    def search(query, depth, blocked):
        index.set_ef(2 * depth)
        keep = None if blocked is None else (lambda item: not blocked[item])
        return index.knn_query(query, depth, num_threads=1, filter=keep)[0][0]

    return search


def usearch(vectors):
    from usearch.index import Index

    index = Index(ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=16)
    index.add(np.arange(len(vectors)), vectors, threads=1)

    def search(query, depth, blocked):
        if blocked is not None:
            return None  # its Python package has no filter
        index.expansion_search = 2 * depth
        return index.search(query, depth, threads=1).keys

    return search


LIBRARIES = {"faiss": faiss_lists, "hnswlib": hnsw, "usearch": usearch}


def measured(search, queries, depth, blocked):
    """Milliseconds and items of each query; None where it cannot search so."""
    if search(queries[0], depth, blocked) is None:
        return None
    times, found = [], []
    for query in queries:
        began = thread_time()
        items = search(query, depth, blocked)
        times.append(1e3 * (thread_time() - began))
        found.append([int(i) for i in items if i >= 0])
    return {"ms": times, "items": found}


def main():
    name, folder, depth = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    vectors, queries, blocked = (
        np.load(folder / f"{part}.npy") for part in ("vectors", "queries", "blocked")
    )
    began = perf_counter()
    search = LIBRARIES[name](vectors)
    build = perf_counter() - began
    print(
        json.dumps(
            {
                "build": build,
                "plain": measured(search, queries, depth, None),
                "filtered": measured(search, queries, depth, blocked),
            }
        )
    )


if __name__ == "__main__":
    main()
