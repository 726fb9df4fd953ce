# The public image under the name of ours.
ARG BASE
FROM $BASE
CMD ["python3"]
