# aiperf, the load generator of playbooks/measure.yml. BASE has Python 3.11 to 3.13. With a build context `wheels` (the wheels of
# aiperf-requirements.txt and of pip) the build needs no network.
ARG BASE
FROM scratch AS wheels

FROM ${BASE} AS packages
USER 0:0
COPY aiperf-requirements.txt aiperf_tokenizer.py /build/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf --mount=type=bind,from=wheels,target=/wheels \
    set -- -m pip install --no-cache-dir; \
    if ls /wheels/pip-*.whl; then set -- "$(echo /wheels/pip-*.whl)/pip" install --no-index --find-links=/wheels --no-cache-dir; fi; \
    python3 "$@" --quiet --no-deps --root-user-action=ignore --target /packages -r /build/aiperf-requirements.txt \
 && PYTHONPATH=/packages HOME=/tmp python3 /build/aiperf_tokenizer.py /packages/anvil-tokenizer

FROM ${BASE}
COPY --from=packages /packages /opt/anvil/packages
ENV PYTHONPATH=/opt/anvil/packages HOME=/tmp USER=anvil HF_HUB_DISABLE_TELEMETRY=1
USER 10001:10001
ENTRYPOINT ["python3", "-m", "aiperf"]
