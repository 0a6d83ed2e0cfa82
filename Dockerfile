# docker build -t valence --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu .      CPU
# docker build -t valence --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .    CUDA 13
# docker run --read-only --tmpfs /tmp -p 8000:8000 valence
# An architecture of your own joins by -v FOLDER:/modules:ro and --import-modules NAME; examples/keyword_pooling has all of it.
ARG PYTHON_IMAGE=docker.io/library/python:3.11.15-slim-bookworm@sha256:d29f48a31a8b408ed19272ca1e7b10ebae13b240a27e862d3d4217c528e2e0c3

FROM ${PYTHON_IMAGE} AS dependencies
WORKDIR /build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PYTHON=/venv/bin/python
RUN python -m venv --without-pip /venv
# A package index for torch alone; empty: pip's own, whose Linux builds carry the CUDA libraries.
ARG TORCH_INDEX=""
COPY constraints.txt .
# --no-deps: that index holds few versions of what torch needs; the next step brings it from pip's own.
# What torch brings for compiling and testing C++ is 190 MB; of its programs it asks for the one that is kept.
RUN python -m pip install -c constraints.txt --no-deps ${TORCH_INDEX:+--index-url ${TORCH_INDEX}} torch \
    && cd /venv/lib/python3*/site-packages/torch && rm -rf include test && find bin -type f ! -name torch_shm_manager -delete
# The dependencies without the project, so that a change of code leaves this layer as it is.
COPY pyproject.toml .
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], *p['optional-dependencies']['tracing'], sep='\n')" > requirements.txt \
    && python -m pip install -c constraints.txt -r requirements.txt

# The CPU's kernels, for the two kinds of processor they are written for; the image itself holds no compiler.
FROM ${PYTHON_IMAGE} AS kernel
RUN apt-get update && apt-get install --yes --no-install-recommends g++
WORKDIR /kernel
COPY models/cpu/kernels.cpp .
RUN if [ "$(uname -m)" = x86_64 ]; then \
    g++ -O3 -ffp-contract=fast -fopenmp -shared -fPIC -march=x86-64-v3 -o kernels.avx2.so kernels.cpp && \
    g++ -O3 -ffp-contract=fast -fopenmp -shared -fPIC -march=x86-64-v4 -o kernels.avx512.so kernels.cpp; fi

FROM ${PYTHON_IMAGE} AS tree
# The settings' defaults are folders beside the packages, so the service runs from its tree instead of site-packages.
WORKDIR /app
COPY LICENSE ./
COPY tokenizers_store ./tokenizers_store
COPY models ./models
COPY service ./service
COPY --from=kernel /kernel ./models/cpu
# Training writes weights that their owner alone may read.
RUN chmod -R a+rX .

FROM ${PYTHON_IMAGE}
# A number, so that an orchestrator can see that it is not root.
RUN groupadd --gid 10001 valence && useradd --uid 10001 --gid valence --no-create-home --home-dir /tmp valence
COPY --from=dependencies /venv /venv
WORKDIR /app
COPY --from=tree /app ./
# /tmp is the only place that is written: metrics' files, the workers' sockets, what libraries cache.
# /modules is for modules of an operator's own, mounted or copied there. On the import path it comes after /app, the working
# directory, so that a folder of his named `models` does not hide the service's, and before Python's own modules.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/modules \
    HF_HOME=/tmp/huggingface \
    HF_HUB_OFFLINE=1
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
# No proxy: Docker hands the client's proxy settings to containers, and urllib would take this request there.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["python", "-c", "import os, urllib.request as http; http.build_opener(http.ProxyHandler({})).open(f\"http://127.0.0.1:{os.environ.get('VALENCE_PORT', 8000)}/ready\", timeout=4)"]
ENTRYPOINT ["python", "-m", "service"]
