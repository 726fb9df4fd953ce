# The public Python image under the name of our base image.
ARG BASE
FROM $BASE
# The image has no bytecode and its containers may not write any: without this step each start compiles its imports.
RUN python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -x '/(site-packages|test|tests|idlelib|lib2to3)/' \
      "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
CMD ["python3"]
