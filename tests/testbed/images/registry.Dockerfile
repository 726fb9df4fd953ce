# A real image registry, for push, pull by digest and the error "manifest unknown".
FROM scratch
ADD registry.tar /
RUN cp /usr/share/base-passwd/passwd.master /etc/passwd && chmod 1777 /tmp && mkdir -p /var/lib/registry \
 && printf 'version: 0.1\nlog: {level: warn}\nstorage: {filesystem: {rootdirectory: /var/lib/registry}, delete: {enabled: true}}\nhttp: {addr: ":5000"}\n' > /etc/registry.yml
VOLUME /var/lib/registry
EXPOSE 5000
ENTRYPOINT ["docker-registry"]
CMD ["serve", "/etc/registry.yml"]
