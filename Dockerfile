# Targets: `service` (the default; scores, without torch) and `training` (the same with torch).
# Both stand on one base, so the virtual environment that is built on it runs on it.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS python
# Versions of Debian's packages are left open: a rebuild shall take its security updates.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
    && groupadd --gid 10001 espalier \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin espalier \
    && install -d -o 10001 -g 10001 -m 0700 /var/cache/espalier /var/lib/espalier

FROM python AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/pip \
    && python3 -m venv --without-pip /opt/espalier
WORKDIR /src
COPY pyproject.toml deploy/constraints.txt ./
# dependencies in a layer of their own: a change of our code does not fetch them again
RUN python3 -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*p["dependencies"], *p["optional-dependencies"]["tracing"], sep="\n")' > requirements.txt \
    && /opt/pip/bin/pip --python /opt/espalier/bin/python install --no-cache-dir --no-compile \
        --constraint constraints.txt --requirement requirements.txt
COPY README.md LICENSE ./
COPY adapters_store adapters_store
COPY cli cli
COPY features features
COPY network network
COPY service service
COPY training training
COPY deploy/healthcheck.py /opt/espalier/healthcheck.py
# libraries' own tests are 20 MB; a read-only root cannot be compiled into later
RUN /opt/pip/bin/pip --python /opt/espalier/bin/python install --no-cache-dir --no-compile --no-deps . \
    && find /opt/espalier/lib -type d -name tests -prune -exec rm -r {} + \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/espalier/lib

FROM build AS build-training
# PyPI's torch brings gigabytes of CUDA; an index of CPU wheels is given as PIP_EXTRA_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
COPY constraints.txt torch.txt
# pip compiles here, because torch has a file that Python 3.11 cannot compile, at which compileall ends with an error
RUN /opt/pip/bin/pip --python /opt/espalier/bin/python install --no-cache-dir \
        --constraint constraints.txt --constraint torch.txt '.[train]'

FROM python AS training
COPY --from=build-training /opt/espalier /opt/espalier
ENV PATH=/opt/espalier/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp
USER 10001:10001
WORKDIR /tmp
HEALTHCHECK NONE
ENTRYPOINT ["espalier"]
CMD ["--help"]

FROM python AS service
COPY --from=build /opt/espalier /opt/espalier
COPY deploy/espalier.yaml /etc/espalier/espalier.yaml
ENV PATH=/opt/espalier/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "/opt/espalier/healthcheck.py", "--config", "/etc/espalier/espalier.yaml", "ready"]
ENTRYPOINT ["espalier"]
CMD ["serve", "--config", "/etc/espalier/espalier.yaml"]
