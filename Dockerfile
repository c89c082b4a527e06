# The node as a container:
#     docker build -t osteonode .
#     docker run -p 11112:11112 -v osteonode-data:/data [--gpus all] osteonode
# It wants no privilege and writes to its volume (docs/security.md):
#     docker run --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges ...
# A config.toml in the volume is read; every setting can come by the environment instead (config.example.toml).
# Same install steps as the Makefile; tests/test_packaging.py compares them.
FROM python:3.11-slim-bookworm

ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
RUN groupadd --system --gid 10001 osteonode \
    && useradd --system --uid 10001 --gid osteonode --home-dir /data --shell /usr/sbin/nologin osteonode \
    && install -d -m 0750 -o osteonode -g osteonode /data

RUN python -m venv /opt/osteonode
ENV PATH=/opt/osteonode/bin:$PATH
# torch first and pinned: by far the largest layer, and it rarely changes.
RUN /opt/osteonode/bin/python -m pip install --quiet 'torch==2.13.0'

WORKDIR /usr/src/osteonode
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY storage storage
COPY migrations migrations
COPY node node
COPY pipelines pipelines
RUN /opt/osteonode/bin/python -m pip install --quiet '.'

ENV OSTEONODE_NODE__DATA=/data
# By number: Kubernetes' runAsNonRoot cannot look a name up.
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 11112 2762
# C-ECHO (PS3.4 A.4) to the node itself.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["osteonode", "echo"]
ENTRYPOINT ["osteonode"]
CMD ["serve"]
