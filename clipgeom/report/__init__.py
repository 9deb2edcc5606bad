"""From a caption set to a report folder: collect, measure, write."""
