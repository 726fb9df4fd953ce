# The router, installed from wheels that the host downloaded: the build needs no network.
ARG BASE
FROM $BASE
ARG VERSION
RUN --mount=type=bind,from=wheels,target=/wheels \
    python3 $(echo /wheels/pip-*.whl)/pip install -qq --no-index --find-links=/wheels --no-cache-dir --break-system-packages \
      --root-user-action=ignore anvil-serving==$VERSION \
 && mkdir -p /etc/anvil /var/lib/anvil && chown 10001:10001 /var/lib/anvil \
 && echo anvil:x:10001:10001::/var/lib/anvil:/usr/sbin/nologin >> /etc/passwd && echo anvil:x:10001: >> /etc/group
# Logs go to a pipe; without PYTHONUNBUFFERED a stopped router loses lines that are not flushed.
ENV HOME=/var/lib/anvil PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
WORKDIR /var/lib/anvil
EXPOSE 8000
ENTRYPOINT ["anvil-serving"]
CMD ["router", "run", "--host", "0.0.0.0", "--port", "8000", "--config", "/etc/anvil/config.toml"]
