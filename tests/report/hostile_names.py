"""Names that a page must show and not obey."""

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 2'>",
    "a \"quoted\" & 'single' `tick` %{y} <b>bold</b>",
    "=cmd|' /C calc'!A0, with a comma\nand a line",
)
