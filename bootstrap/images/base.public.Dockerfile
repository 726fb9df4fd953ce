# The public image under the name of ours.
ARG BASE
FROM $BASE
# The image brings no bytecode, and what runs on it may not write any: each start would compile what it imports.
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/(site-packages|test|tests|idlelib|lib2to3)/' \
      "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
CMD ["python3"]
