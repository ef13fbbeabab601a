#!/usr/bin/env bash
# Installs Debian's or Ubuntu's Chromium for the browser tests, where there is none. Needs root.
set -u
for name in chromium chromium-browser google-chrome; do
  command -v "$name" > /dev/null && exit 0
done
if ! command -v apt-get > /dev/null || [ "$(id -u)" != 0 ]; then
  echo "Chromium is not installed: browser tests are skipped" >&2
  exit 1
fi
apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium
