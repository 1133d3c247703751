"""The jobs of tests/bench/mapreduce as PySpark has them, by data frames: JOB INPUT OUTPUT."""
import sys

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

job, source, output = sys.argv[1:]
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.driver.memory", "4g")
    .config("spark.sql.shuffle.partitions", "8")
    .config("spark.ui.enabled", "false")
    .getOrCreate()
)
spark.sparkContext.setLogLevel("ERROR")
lines = spark.read.option("lineSep", "\n").text(source)
if job == "wordcount":
    words = lines.select(f.explode(f.split("value", " ")).alias("word")).where("word != ''")
    result = words.groupBy("word").count().sortWithinPartitions("word")
    result = result.select(f.concat_ws("\t", "word", f.col("count").cast("string")))
elif job == "sort":
    result = lines.orderBy("value")
elif job == "index":
    parts = f.split("value", "\t")
    pairs = lines.select(
        parts[0].alias("document"), f.explode(f.split(parts[1], " ")).alias("word")
    )
    pairs = pairs.where("word != ''").distinct()
    result = pairs.groupBy("word").agg(f.array_sort(f.collect_list("document")).alias("documents"))
    result = result.select(f.concat_ws("\t", "word", f.concat_ws("\t", "documents")))
else:
    sys.exit(f"error: no such job: {job}")
result.write.text(output)
spark.stop()
